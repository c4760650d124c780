"""Receiver: takes the webhooks; it refuses the first try of some, so that they are sent again."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scripts.soak.clients import digest
from scripts.soak.receipts import Delivery

REFUSED_EVERY = 10


@dataclass(frozen=True)
class Receiver:
    """`url`: its address without a slash at the end; `deliveries` grows."""

    url: str
    deliveries: list[Delivery]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free loopback port."""
    deliveries, seen, lock = list[Delivery](), set[str](), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            key = self.path.removeprefix("/")
            with lock:
                first = key not in seen
                seen.add(key)
                answered = 503 if first and len(seen) % REFUSED_EVERY == 0 else 200
                request_id = self.headers["X-Fal-Webhook-Request-Id"] or ""
                deliveries.append(Delivery(key, request_id, digest(content), answered))
            self.send_response(answered)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            """Nothing: the terminal belongs to the progress bar."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Receiver(f"http://127.0.0.1:{server.server_port}", deliveries)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
