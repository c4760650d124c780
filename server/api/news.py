"""News: the queue's bell, heard in the event loop by whoever waits for a job."""

import asyncio
import threading
from collections.abc import Iterator


class News:
    """One thread hears for all of a process."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._closed = threading.Event()

    def listen(self, rings: Iterator[None], loop: asyncio.AbstractEventLoop) -> None:
        """Start hearing `rings`; the thread ends within a second after `close`."""

        def hear() -> None:
            for _ in rings:
                if self._closed.is_set():
                    return
                loop.call_soon_threadsafe(self.stir)

        threading.Thread(target=hear, name="news", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def next(self) -> asyncio.Event:
        """An event that is set by the first ring from now on."""
        return self._event

    def stir(self) -> None:
        """Wake all who wait in this process, in its event loop."""
        self._event.set()
        self._event = asyncio.Event()
