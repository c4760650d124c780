"""Island: a machine of its own, without a network, whose names lead to a server as an operator's DNS would.

There the clients are given nothing but a key and an authority. It is made of Linux namespaces, with root or with the
user namespaces that most distributions allow.
"""

import fcntl
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from server.hosts import FAL_HOSTS
from server.tls import issue
from tests.clients.client import CLIENTS, Client, clean_environment
from tests.clients.names import JAVASCRIPT
from tests.server_process import ROOT, ServerProcess

SERVER, ELSEWHERE = "127.0.0.1", "127.0.0.2"
FOREIGN_HOSTS = ("storage.googleapis.com", "optional.webhook.url")
"""The hosts that the published pages name: of the sample pictures, and of the webhook."""
PUBLISHED_ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"
ASTRONAUT = ROOT / "scripts" / "data" / "astronaut.png"
SET_FLAGS, UP_AND_RUNNING = 0x8914, 0x41
PATIENCE_S = 500


def way_in() -> list[str]:
    """The command that runs another one in namespaces of its own. Raises OSError where the machine allows none."""
    command = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    probe = subprocess.run([*command, "mount", "--bind", "/etc/hosts", "/etc/hosts"], capture_output=True, check=False)
    if probe.returncode:
        raise OSError(f"`{' '.join(command)}` is not allowed here: {probe.stderr.decode().strip()}")
    return command


def visit(folder: Path) -> dict[str, Any]:
    """Run every snippet on an island and report: snippet -> code, out, errors; `webhooks`: what was delivered."""
    command = [*way_in(), sys.executable, "-m", "tests.clients.island", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def settle(folder: Path) -> None:
    """From within: loopback alone, and a hosts file."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        fcntl.ioctl(door, SET_FLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))
    lines = [f"{SERVER} localhost", *(f"{SERVER} {name}" for name in FAL_HOSTS)]
    hosts = folder / "hosts"
    hosts.write_text("\n".join([*lines, *(f"{ELSEWHERE} {name}" for name in FOREIGN_HOSTS)]) + "\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)


class Elsewhere(BaseHTTPRequestHandler):
    """What the published pages name besides fal: sample pictures, and an application that takes webhooks."""

    webhooks: list[dict[str, Any]]
    arrived: threading.Event

    def do_GET(self) -> None:
        self.reply(ASTRONAUT.read_bytes())

    def do_POST(self) -> None:
        self.webhooks.append({"path": self.path, **json.loads(self.rfile.read(int(self.headers["Content-Length"])))})
        self.reply(b"")
        self.arrived.set()

    def reply(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: standard error is for what fails."""


def open_elsewhere(folder: Path) -> type[Elsewhere]:
    """Start it, with an authority of its own in `folder`."""
    files = issue(folder, FOREIGN_HOSTS)
    handler = type("Here", (Elsewhere,), {"webhooks": [], "arrived": threading.Event()})
    server = ThreadingHTTPServer((ELSEWHERE, 443), handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return handler


def run_snippet(name: str, ca: Path, request_id: str = PUBLISHED_ID, package: str | None = None) -> dict[str, Any]:
    """A published snippet, word for word; the reader puts in the id of a request, and `package` another version."""
    text = (JAVASCRIPT / "snippets" / f"{name}.mjs").read_text().replace(PUBLISHED_ID, request_id)
    if package:
        text = text.replace('"@fal-ai/serverless-client"', f'"{package}"')
    return run(["node", "--input-type=module", "-"], text, {"NODE_EXTRA_CA_CERTS": str(ca)})


def run_python(client: Client, ca: Path) -> dict[str, Any]:
    picture = f"https://{FOREIGN_HOSTS[0]}/falserverless/pulid/img1.png"
    size = {"width": 256, "height": 256}
    body = {"reference_images": [{"image_url": picture}], "prompt": "portrait", "image_size": size}
    given = json.dumps({"endpoint": "fal-ai/pulid", "input": body})
    return run([*client.program("subscribe"), given], "", {"SSL_CERT_FILE": str(ca)})


def run(command: list[str], text: str, environment: dict[str, str]) -> dict[str, Any]:
    """Nothing but a key and an authority is set."""
    plain = {name: value for name, value in clean_environment().items() if not name.startswith("SSL_CERT")}
    environment = plain | environment | {"FAL_KEY": "any:key"}
    done = subprocess.run(
        command,
        input=text,
        env=environment,
        cwd=JAVASCRIPT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return {"code": done.returncode, "out": done.stdout, "errors": done.stderr}


def run_all(ca: Path, elsewhere: type[Elsewhere]) -> dict[str, Any]:
    names = sorted(file.stem for file in (JAVASCRIPT / "snippets").glob("*.mjs"))
    report: dict[str, Any] = {
        name: run_snippet(name, ca) for name in names if name not in {"pulid-status", "pulid-result"}
    }
    assert elsewhere.arrived.wait(60), "no webhook came"
    request_id = elsewhere.webhooks[0]["request_id"]
    for name in ("pulid-status", "pulid-result"):
        report[name] = run_snippet(name, ca, request_id)
    report["instantid-subscribe 0.10.2"] = run_snippet("instantid-subscribe", ca, package="serverless-client-0.10")
    for client in CLIENTS:
        if not client.javascript and not client.old:
            report[client.id] = run_python(client, ca)
    return report | {"webhooks": elsewhere.webhooks, "id": request_id}


def main() -> None:
    folder = Path(sys.argv[1])
    settle(folder)
    elsewhere = open_elsewhere(folder / "elsewhere")
    # Long enough for every client to see it in progress, whatever its interval between two polls.
    settings = {
        "max_side_px": 768,
        "port": 443,
        "outbound": "127.0.0.0/8",
        "outbound_ca": folder / "elsewhere" / "ca.pem",
    }
    (folder / "server").mkdir()
    with ServerProcess(folder / "server", "serve", "--tls", **settings) as server:
        report = run_all(server.ca_file, elsewhere)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
