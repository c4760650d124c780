"""One client's connection: uvicorn's protocol with the limits that it lacks, so that nobody holds the door open."""

import asyncio
import json
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_WITHIN_S = 30
"""From the first byte of a request, or from the connection, to the end of its headers."""
MOST_HEADER_BYTES = 64 * 1024


class Connection(HttpToolsProtocol):
    """Closes on a client whose headers take too long or who takes nothing of its answer; 431 to endless headers.

    What waits for a slow client is bounded: beyond 64 KiB the answer is not made any further (uvicorn's flow control).

    Args:
        send_timeout_s: how long a client may take nothing of an answer that waits for it.
    """

    def __init__(self, *arguments: Any, send_timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._send_timeout_s = send_timeout_s
        self._sending: asyncio.TimerHandle | None = None
        self._unsent = 0
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

    def pause_writing(self) -> None:
        """The client reads slower than it is answered."""
        super().pause_writing()
        self._stop_sending()
        self._watch_sending()

    def _watch_sending(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._sending = self.loop.call_later(self._send_timeout_s, self._check_sending)

    def _check_sending(self) -> None:
        """A close would wait for the client to read the rest, so one that read nothing is cut off."""
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch_sending()
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_sending()

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_sending()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(HEADERS_WITHIN_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
