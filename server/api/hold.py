"""Hold: a status poll with nothing new waits a moment for news, so that polling clients learn of it at once.

One look at the queue serves all polls that are held (docs/decisions/0027-held-polls.md).
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from server.api.watch import BREATH_S, News
from server.queue.queue import Queue
from server.queue.sights import Sight, View
from server.queue.wakeup import POLL_S

LONGEST_AGENT = 200
"""Characters of a User-Agent that tell observers apart: each one is kept for a while."""
GATHER_S = 0.02
"""Between two looks: polls that come in this time share the next one."""
MOST_OBSERVERS = 10_000
"""Observers remembered; one that was forgotten is answered at once, as at its first look."""
REST = 4
"""After a shared look, rest at least this many times as long as it took: a long queue is not counted all the time."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Observer:
    """Who looks at which job. Clients send no identity with a poll; two that look alike only share their holds."""

    job_id: str
    address: str
    user_agent: str
    with_lines: bool

    @classmethod
    def of(cls, request: Request, job_id: str, with_lines: bool) -> "Observer":
        address = request.client.host if request.client else ""
        return cls(job_id, address, request.headers.get("user-agent", "")[:LONGEST_AGENT], with_lines)


@dataclass(eq=False)
class Waiter:
    """One poll. `told`: what it knows already, so that only something else is an answer; None: anything is."""

    observer: Observer
    told: Sight | None
    answer: asyncio.Future[View | None]

    def offer(self, views: Mapping[str, View]) -> None:
        """Answer with this look at the queue, if it is news. None: the job is not there (any more)."""
        view = views.get(self.observer.job_id)
        if view is not None and not self.observer.with_lines:
            view = replace(view, lines=None)
        if not self.answer.done() and (view is None or view.sight != self.told):
            self.answer.set_result(view)


class Polls:
    """The status polls of one process, in its event loop.

    Args:
        hold_s: how long a poll may wait for news; 0 answers every poll at once.
    """

    def __init__(self, queue: Queue, news: News, hold_s: float) -> None:
        self._queue, self._news, self._hold_s = queue, news, hold_s
        self._told: OrderedDict[Observer, Sight] = OrderedDict()
        self._asking: list[Waiter] = []
        self._held: set[Waiter] = set()
        self._gathering: asyncio.Task[None] | None = None
        self._lookout: asyncio.Task[None] | None = None

    async def view(self, observer: Observer, owner: str) -> View | None:
        """The owner's job: at once if it is news to this observer, else as soon as it is, after `hold_s` at most.

        None: there is no such job, or it is another owner's; told without waiting in either case.
        """
        until = time.monotonic() + self._hold_s
        told, ring = self._told.get(observer), self._news.next()
        seen = await self._ask(observer)
        while seen and seen.job.owner == owner and seen.sight == told and seen.job.state != "COMPLETED":
            if ring.is_set() and time.monotonic() < until:  # it rang while we looked: look once more
                ring = self._news.next()
                seen = await self._ask(observer)
                continue
            seen = await self._hold(observer, seen, until - time.monotonic())
            break
        if seen is None or seen.job.owner != owner:
            return None
        self._remember(observer, seen.sight)
        return seen

    def release(self) -> None:
        """Answer every held poll now, and hold no more: the process leaves."""
        self._hold_s = 0
        for waiter in self._held:
            waiter.told = None
        self._news.stir()

    def _remember(self, observer: Observer, told: Sight) -> None:
        self._told[observer] = told
        self._told.move_to_end(observer)
        if len(self._told) > MOST_OBSERVERS:
            self._told.popitem(last=False)

    async def _ask(self, observer: Observer) -> View | None:
        """A look at the queue that begins after this call, shared with whoever asks at the same time."""
        waiter = Waiter(observer, None, asyncio.get_running_loop().create_future())
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

    async def _hold(self, observer: Observer, seen: View, limit_s: float) -> View | None:
        """News of the job, or `seen` when there was none for `limit_s`."""
        if limit_s <= 0:
            return seen
        waiter = Waiter(observer, seen.sight, asyncio.get_running_loop().create_future())
        self._held.add(waiter)
        if self._lookout is None or self._lookout.done():
            self._lookout = asyncio.create_task(self._look_out(self._news.next()))
        try:
            return await asyncio.wait_for(waiter.answer, limit_s)
        except TimeoutError:
            return seen
        finally:
            self._held.discard(waiter)

    async def _look_out(self, ring: asyncio.Event) -> None:
        """While polls are held: look after each ring, and answer those whose job changed."""
        while self._held:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ring.wait(), POLL_S)
            ring, began = self._news.next(), time.monotonic()  # before the look: a ring during it is not missed
            try:
                await self._look(list(self._held))
            except SQLAlchemyError as error:
                log.warning("held polls wait to their end", error=type(error).__name__)
            await asyncio.sleep(max(BREATH_S, REST * (time.monotonic() - began)))

    async def _look(self, waiters: Sequence[Waiter]) -> None:
        wanted: dict[str, bool] = {}
        for waiter in waiters:
            job_id = waiter.observer.job_id
            wanted[job_id] = wanted.get(job_id, False) or waiter.observer.with_lines
        views = await run_in_threadpool(self._queue.views, wanted) if wanted else {}
        for waiter in waiters:
            waiter.offer(views)
