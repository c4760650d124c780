"""Hold: a status poll with nothing new waits a moment for news, so that polling clients learn of it at once.

One look at the queue serves all polls that are held (docs/decisions/0027-held-polls.md).
"""

from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request

from server.api.lookout import Lookout, Wish
from server.queue.sights import Sight, View

LONGEST_AGENT = 200
"""Characters of a User-Agent that tell observers apart: each one is kept for a while."""
MOST_OBSERVERS = 10_000
"""Observers remembered; one that was forgotten is answered at once, as at its first look."""


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


class Polls:
    """The status polls of one process, in its event loop.

    Args:
        hold_s: how long a poll may wait for news; 0 answers every poll at once.
    """

    def __init__(self, lookout: Lookout, hold_s: float) -> None:
        self._lookout, self._hold_s = lookout, hold_s
        self._told: OrderedDict[Observer, Sight] = OrderedDict()

    async def view(self, observer: Observer, owner: str) -> View | None:
        """The owner's job: at once if it is news to this observer, else as soon as it is, after `hold_s` at most.

        None: there is no such job, or it is another owner's; told without waiting in either case.
        """
        wish = Wish(observer.job_id, owner, observer.with_lines)
        seen = await self._lookout.view(wish, self._told.get(observer), self._hold_s)
        if seen is not None:
            self._remember(observer, seen.sight)
        return seen

    def release(self) -> None:
        """Answer every held poll now, and hold no more: the process leaves."""
        self._hold_s = 0
        self._lookout.release()

    def _remember(self, observer: Observer, told: Sight) -> None:
        self._told[observer] = told
        self._told.move_to_end(observer)
        if len(self._told) > MOST_OBSERVERS:
            self._told.popitem(last=False)
