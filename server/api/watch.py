"""Watch one job without holding a thread: woken by the queue's news, looking by itself at least every second."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from server.queue.job import Job, LogLine
from server.queue.queue import Queue
from server.queue.wakeup import POLL_S

KEEP_ALIVE_S = 15.0
"""fal's stream sends a comment this often (fal-protocol.md §2.3)."""
BREATH_S = 0.03
"""At most one look per watcher in this time: every watcher hears the news of every job."""


class News:
    """The queue's bell for news, heard in the event loop: one thread for all watchers."""

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
        """Wake the watchers of this process, in its event loop."""
        self._event.set()
        self._event = asyncio.Event()


@dataclass(frozen=True)
class Change:
    """The job as it is now; `new_lines` are the log lines since the change before."""

    job: Job
    position: int
    new_lines: list[LogLine]


@dataclass
class Watch:
    """One observer of one job; remembers what it has already told."""

    queue: Queue
    news: News
    job_id: str
    told: tuple[str, int] | None = None
    told_lines: int = 0

    async def changes(self) -> AsyncIterator[Change | None]:
        """The job now and after each change of state, position or log; None after 15 s of nothing.

        Ends with COMPLETED, or when the job was deleted.
        """
        quiet_since = time.monotonic()
        while True:
            ring = self.news.next()
            try:
                change = await run_in_threadpool(self.look)
            except LookupError:
                return
            if change is not None:
                yield change
                quiet_since = time.monotonic()
                if change.job.state == "COMPLETED":
                    return
            elif time.monotonic() - quiet_since >= KEEP_ALIVE_S:
                yield None
                quiet_since = time.monotonic()
            await asyncio.sleep(BREATH_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ring.wait(), POLL_S)

    def look(self) -> Change | None:
        """The job, if there is news of it. Raises LookupError when it was deleted.

        The log is read after the state, so that COMPLETED comes with every line.
        """
        job = self.queue.get(self.job_id)
        if job is None:
            raise LookupError(f"request {self.job_id} was removed while it was watched")
        position = self.queue.position(job) if job.state == "IN_QUEUE" else 0
        lines = self.queue.logs(self.job_id)
        news = lines[self.told_lines :]
        if (job.state, position) == self.told and not news:
            return None
        self.told, self.told_lines = (job.state, position), len(lines)
        return Change(job, position, news)
