"""Hub: a small server that speaks the Hugging Face hub's HTTP, and a release page's; it can be slow, wrong or rude.

Two ports: the hub itself, and the content network that it redirects large files to.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LARGE_BYTES = 20_000
"""From here on a file is kept outside git, and its sha256 is told."""

SLOW_CHUNK = 32 * 1024


@dataclass
class Manners:
    """How the server treats those who ask.

    Args:
        statuses: answered instead, one after another, on paths that end like the key.
        cut: paths that break off after so many bytes, each time. wrong: paths with one byte changed.
        token: what must be shown, or nothing. pause_s: between chunks of 32 KiB. ranges: whether Range is understood.
    """

    statuses: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    token: str = ""
    pause_s: float = 0.0
    ranges: bool = True


@dataclass
class Hub:
    """Repositories by name: files by path. `releases`: files by path. Every request that came is in `asked`."""

    repositories: dict[str, dict[str, bytes]]
    releases: dict[str, bytes] = field(default_factory=dict)
    manners: Manners = field(default_factory=Manners)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    content_url: str = ""

    def commit(self, repository: str) -> str:
        """Changes with the content."""
        files = sorted(self.repositories[repository].items())
        return hashlib.sha1(b"".join(name.encode() + body for name, body in files)).hexdigest()

    def paths(self, method: str = "GET") -> list[str]:
        return [path for verb, path, _ in self.asked if verb == method]

    @property
    def sent_tokens(self) -> set[tuple[str, str]]:
        """(host and port, Authorization) of every request."""
        return {(headers["host"], headers.get("authorization", "")) for _, _, headers in self.asked}


@contextmanager
def running_hub(hub: Hub) -> Iterator[Hub]:
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(hub)) for _ in range(2)]
    hub.url, hub.content_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def described(path: str, body: bytes) -> dict[str, Any]:
    """A file as the API lists it."""
    blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    listed = {"rfilename": path, "size": len(body), "blobId": blob}
    if len(body) < LARGE_BYTES:
        return listed
    return listed | {"lfs": {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}}


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:  # noqa: C901  one class, one place
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(self.path.partition("?")[0])
            hub.asked.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
            for end, statuses in hub.manners.statuses.items():
                if path.endswith(end) and statuses:
                    return self.say(statuses.pop(0))
            if path.startswith("/content/"):
                return self.send_file(path, hub.releases[path.removeprefix("/content/")])
            if hub.manners.token and self.headers["Authorization"] != f"Bearer {hub.manners.token}":
                return self.say(401, {"X-Error-Code": "GatedRepo"})
            if path.startswith("/api/models/"):
                return self.list_files(path.removeprefix("/api/models/"))
            if "/resolve/" in path:
                return self.resolve(path)
            found = hub.releases.get(path.removeprefix("/"))
            return self.send_file(path, found) if found is not None else self.say(404)

        def list_files(self, rest: str) -> None:
            name, _, revision = rest.partition("/revision/")
            if name not in hub.repositories:
                return self.say(401, {"X-Error-Code": "RepoNotFound"})
            if revision not in {"", "main", hub.commit(name)}:
                return self.say(404, {"X-Error-Code": "RevisionNotFound"})
            files = [described(path, body) for path, body in hub.repositories[name].items()]
            listing = {"id": name, "modelId": name, "sha": hub.commit(name), "siblings": files}
            return self.say(200, {"Content-Type": "application/json"}, json.dumps(listing).encode())

        def resolve(self, path: str) -> None:
            name, _, rest = path.removeprefix("/").partition("/resolve/")
            file = rest.partition("/")[2]
            body = hub.repositories.get(name, {}).get(file)
            if body is None:
                return self.say(404, {"X-Error-Code": "EntryNotFound"})
            if len(body) < LARGE_BYTES:
                return self.send_file(path, body)
            digest = hashlib.sha256(body).hexdigest()
            hub.releases[f"{digest}/{file}"] = body
            linked = {
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(body)),
                "X-Repo-Commit": hub.commit(name),
            }
            return self.say(302, linked | {"Location": f"{hub.content_url}/content/{digest}/{file}"})

        def send_file(self, path: str, body: bytes) -> None:
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            if any(path.endswith(end) for end in hub.manners.wrong):
                body = bytes([body[0] ^ 1]) + body[1:]
            asked = self.headers.get("Range", "") if hub.manners.ranges else ""
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if asked and start >= len(body):
                return self.say(416)
            more = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if asked else {}
            self.send_response(206 if asked else 200)
            for name, value in {"ETag": etag, "Content-Length": str(len(body) - start), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.send_slowly(
                    body[start:], next((n for end, n in hub.manners.cut.items() if path.endswith(end)), None)
                )
            return None

        def send_slowly(self, body: bytes, most: int | None) -> None:
            try:
                for begin in range(0, len(body[:most]), SLOW_CHUNK):
                    self.wfile.write(body[:most][begin : begin + SLOW_CHUNK])
                    time.sleep(hub.manners.pause_s)
            except OSError:  # whoever asked is gone
                self.close_connection = True
            self.close_connection |= most is not None

        def say(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
            wait = {"Retry-After": "0"} if status in {429, 503} else {}
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **wait, **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler
