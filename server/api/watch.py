"""Watch: one job from now to its end, for an event stream or a direct run."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.api.lookout import Lookout, Wish
from server.queue.job import Job, LogLine
from server.queue.sights import View
from server.queue.wakeup import POLL_S

KEEP_ALIVE_S = 15.0
"""fal's stream sends a comment this often (fal-protocol.md §2.3)."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Change:
    """The job as it is now; `new_lines` are the log lines since the change before."""

    job: Job
    position: int
    new_lines: list[LogLine]


async def changes(lookout: Lookout, wish: Wish) -> AsyncIterator[Change | None]:
    """The job now and after each change of state, position or log; None after 15 s of nothing.

    Ends with COMPLETED, or when the job was deleted. While the queue does not answer there is nothing, each second.
    """
    told: View | None = None
    while True:
        try:
            seen = await lookout.view(wish, told and told.sight, KEEP_ALIVE_S if told else 0)
        except SQLAlchemyError as error:
            log.warning("a watched request waits for the queue", request_id=wish.job_id, error=type(error).__name__)
            await asyncio.sleep(POLL_S)
            yield None
            continue
        if seen is None:
            return
        if told and seen.sight == told.sight:
            yield None
            continue
        yield Change(seen.job, seen.position, (seen.lines or [])[len(told.lines or ()) if told else 0 :])
        if seen.job.state == "COMPLETED":
            return
        told = seen
