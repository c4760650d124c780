"""One client's connection: uvicorn's protocol with the two limits that it lacks, so that nobody holds the door open."""

import asyncio
import json
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_WITHIN_S = 30
"""From the first byte of a request, or from the connection, to the end of its headers."""
MOST_HEADER_BYTES = 64 * 1024


class Connection(HttpToolsProtocol):
    """Closes on a client whose headers take too long, and answers 431 to endless ones."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reading: Literal["nothing", "headers", "body"] = "nothing"
        self._header_bytes = 0
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        in_body = self._reading == "body"  # also of a request that was answered before its end
        super().data_received(data)
        if in_body or self._reading != "headers" or self.transport.is_closing():
            return
        self._header_bytes += len(data)
        if self._header_bytes > MOST_HEADER_BYTES:
            self._refuse("431 Request Header Fields Too Large", "The headers are too large.")

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, but in the form of every other refusal."""
        self._refuse("400 Bad Request", msg)

    def _refuse(self, status: str, detail: str) -> None:
        body = json.dumps({"detail": detail, "error_type": "bad_request"})
        head = f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}"
        self.transport.write(f"HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}".encode())
        self.transport.close()

    def on_message_begin(self) -> None:
        self._reading, self._header_bytes = "headers", 0
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._reading = "body"
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._reading = "nothing"
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(HEADERS_WITHIN_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
