"""Wire: what a fal client puts on the wire, byte by byte, with the Host header of one's choice; no client library."""

import http.client
import json
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

QUEUE, RUN = "queue.fal.run", "fal.run"
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answer:
    """A response as it came: header names are case-insensitive."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def content_type(self) -> str:
        return (self.headers["content-type"] or "").partition(";")[0]


@dataclass(frozen=True)
class Wire:
    """A server's address (``host:port``), and the TLS context with which to speak to it, if any."""

    address: str
    tls: ssl.SSLContext | None = None

    def connect(self, timeout_s: float = PATIENCE_S) -> http.client.HTTPConnection:
        if self.tls:
            return http.client.HTTPSConnection(self.address, timeout=timeout_s, context=self.tls)
        return http.client.HTTPConnection(self.address, timeout=timeout_s)

    def send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any = None,
        *,
        host: str | None = QUEUE,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a request and do not wait for its answer. `body`: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        if connection.sock is None:
            connection.connect()  # a refused connection is told, unlike the end of one below
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": host or self.address, "Accept": "application/json", "Content-Type": "application/json"}
        if content or method == "POST":
            sent["Content-Length"] = str(len(content))
        for name, value in (sent | (headers or {})).items():
            connection.putheader(name, value)
        with suppress(
            ConnectionError
        ):  # answered before all was sent: the answer is there to read, as fal's clients do
            connection.endheaders(content or None)

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """One request on a connection of its own; redirects are not followed."""
        connection = self.connect(options.pop("timeout_s", PATIENCE_S))
        try:
            self.send(connection, method, path, body, **options)
            response = connection.getresponse()
            return Answer(response.status, response.reason, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Answer:
        return self.ask("GET", path, **options)

    def put(self, path: str, body: Any = None, **options: Any) -> Answer:
        return self.ask("PUT", path, body, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return self.ask("POST", path, body, **options)

    def follow(self, url: str, method: str = "GET", **options: Any) -> Answer:
        """Ask what a URL in an answer names, as a client does whose DNS sends the name here."""
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        return self.ask(method, path, host=parts.netloc, **options)

    def submit(self, endpoint: str, body: Any, *, query: str = "", **headers: str) -> dict[str, Any]:
        """Enqueue and return the answer's body. Header names are given with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.post(f"/{endpoint}{query}", body, headers=named)
        assert answer.status == 200, (answer.status, answer.body)
        return answer.json

    def status(self, request: dict[str, Any], query: str = "", **options: Any) -> Answer:
        return self.follow(request["status_url"] + query, **options)

    def result(self, request: dict[str, Any], **options: Any) -> Answer:
        return self.follow(request["response_url"], **options)

    def cancel(self, request: dict[str, Any], **options: Any) -> Answer:
        return self.follow(request["cancel_url"], "PUT", **options)

    def wait_for(self, request: dict[str, Any], *states: str, query: str = "", limit_s: float = PATIENCE_S) -> Answer:
        """Poll as clients do until the status is one of `states`."""
        limit = time.monotonic() + limit_s
        while True:
            answer = self.status(request, query)
            assert answer.status in {200, 202}, (answer.status, answer.body)
            if answer.json["status"] in states:
                return answer
            assert time.monotonic() < limit, f"still {answer.json['status']} after {limit_s} s, not {states}"
            time.sleep(0.03)

    def finish(self, request: dict[str, Any], limit_s: float = PATIENCE_S) -> Answer:
        """Poll until the request is completed and return its result."""
        self.wait_for(request, "COMPLETED", limit_s=limit_s)
        return self.result(request)
