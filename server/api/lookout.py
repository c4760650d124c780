"""Lookout: whoever waits for news of a job, and one look at the queue that serves all of them.

Status polls, event streams and direct runs wait here; what a look costs does not depend on how many they are
(docs/decisions/0027-held-polls.md).
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from server.api.news import News
from server.queue.queue import Queue
from server.queue.sights import Sight, View
from server.queue.wakeup import POLL_S

GATHER_S = 0.02
"""Between two looks: those who come in this time share the next one."""
BREATH_S = 0.03
"""At most one look at what is waited for in this time: the news of every job is heard."""
REST = 4
"""After a shared look, rest at least this many times as long as it took: a long queue is not counted all the time."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Wish:
    """What is looked at. Another owner's job looks as one that is not there.

    Args:
        with_lines: whether the log is wanted, so that a new line is news.
    """

    job_id: str
    owner: str
    with_lines: bool


@dataclass(eq=False)
class Waiter:
    """One who waits. `told`: what it knows already, so that only something else is an answer; None: anything is."""

    wish: Wish
    told: Sight | None
    answer: asyncio.Future[View | None]

    def offer(self, views: Mapping[str, View]) -> None:
        """Answer with this look at the queue, if it is news. None: the job is not there (any more)."""
        view = views.get(self.wish.job_id)
        if view is not None and view.job.owner != self.wish.owner:
            view = None
        if view is not None and not self.wish.with_lines:
            view = replace(view, lines=None)
        if not self.answer.done() and (view is None or view.sight != self.told):
            self.answer.set_result(view)


class Lookout:
    """Of one process, in its event loop."""

    def __init__(self, queue: Queue, news: News) -> None:
        self._queue, self._news = queue, news
        self._asking: list[Waiter] = []
        self._waiting: set[Waiter] = set()
        self._gathering: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def view(self, wish: Wish, told: Sight | None = None, limit_s: float = 0.0) -> View | None:
        """The job as soon as it looks different from `told`; as it is when it does not for `limit_s`, or is COMPLETED.

        None: there is no such job, told without waiting. Raises SQLAlchemyError when the queue does not answer.
        """
        until, ring = time.monotonic() + limit_s, self._news.next()
        seen = await self._ask(wish)
        while seen and seen.sight == told and seen.job.state != "COMPLETED":
            if not ring.is_set() or time.monotonic() >= until:
                return await self._wait(wish, seen, until - time.monotonic())
            ring = self._news.next()  # it rang while we looked: look once more
            seen = await self._ask(wish)
        return seen

    def release(self) -> None:
        """Answer all who wait, now, with what there is."""
        for waiter in self._waiting:
            waiter.told = None
        self._news.stir()

    async def _ask(self, wish: Wish) -> View | None:
        """A look at the queue that begins after this call, shared with whoever asks at the same time."""
        waiter = Waiter(wish, None, asyncio.get_running_loop().create_future())
        self._asking.append(waiter)
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        return await waiter.answer

    async def _gather(self) -> None:
        """Look for all that ask; those who come meanwhile share the next look."""
        while self._asking:
            asking, self._asking = self._asking, []
            try:
                await self._look(asking)
            except Exception as error:  # nobody may wait for ever, whatever it was
                for waiter in asking:
                    if not waiter.answer.done():
                        waiter.answer.set_exception(error)
            await asyncio.sleep(GATHER_S)

    async def _wait(self, wish: Wish, seen: View, limit_s: float) -> View | None:
        """News of the job, or `seen` when there was none for `limit_s`."""
        if limit_s <= 0:
            return seen
        waiter = Waiter(wish, seen.sight, asyncio.get_running_loop().create_future())
        self._waiting.add(waiter)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(self._news.next()))
        try:
            return await asyncio.wait_for(waiter.answer, limit_s)
        except TimeoutError:
            return seen
        finally:
            self._waiting.discard(waiter)

    async def _watch(self, ring: asyncio.Event) -> None:
        """While anyone waits: look after each ring, and answer those whose job changed."""
        while self._waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ring.wait(), POLL_S)
            ring, began = self._news.next(), time.monotonic()  # before the look: a ring during it is not missed
            try:
                await self._look(list(self._waiting))
            except SQLAlchemyError as error:
                log.warning("whoever waits for news waits on", error=type(error).__name__)
            await asyncio.sleep(max(BREATH_S, REST * (time.monotonic() - began)))

    async def _look(self, waiters: Sequence[Waiter]) -> None:
        wanted: dict[str, bool] = {}
        for waiter in waiters:
            job_id = waiter.wish.job_id
            wanted[job_id] = wanted.get(job_id, False) or waiter.wish.with_lines
        views = await run_in_threadpool(self._queue.views, wanted) if wanted else {}
        for waiter in waiters:
            waiter.offer(views)
