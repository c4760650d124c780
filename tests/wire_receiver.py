"""Receiver: an HTTP server on loopback that remembers what it is sent and answers what it is told."""

import threading
import time
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: Message
    body: bytes


class Receiver:
    """`url` is its address without a slash at the end; every path gets the same answer.

    Args:
        status: of its answers; `status` may be changed meanwhile.
        address: of this machine.
        location: where a redirect leads.
    """

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        content_type: str = "text/html",
        *,
        address: str = "127.0.0.1",
        location: str | None = None,
    ) -> None:
        self.status, self.received = status, list[Received]()
        receiver, received = self, self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length", 0)))
                received.append(Received(self.command, self.path, self.headers, content))
                self.send_response(receiver.status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                """Nothing: pytest's output is no place for it."""

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self.server.server_port}"

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def wait(self) -> Received:
        """The first request, once it has come."""
        limit = time.monotonic() + PATIENCE_S
        while not self.received:
            assert time.monotonic() < limit, f"nothing came in {PATIENCE_S} s"
            time.sleep(0.02)
        return self.received[0]
