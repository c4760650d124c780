"""Familiar: a caller who polls ten times per second is not looked up each time."""

import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

KNOWN_S = 0.25
"""How long a look-up counts: so much later a revoked key stops seeing the status of its requests."""
MOST_CALLERS = 1000
DECIDES = ("authorization", "host", "x-asked-host", "origin")
"""The headers that server.auth looks at."""


class Familiar:
    """The callers of the last moment, by all that decides who they are. A refusal is never remembered."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str | None, ...], tuple[str, float]] = OrderedDict()

    async def owner(self, request: Request, look_up: Callable[[], str]) -> str:
        """What `look_up` (run in a thread) says of this request's caller. Raises what it raises."""
        caller = tuple(request.headers.get(name) for name in DECIDES)
        owner, until = self._known.get(caller, ("", 0.0))
        now = time.monotonic()
        if now < until:
            return owner
        owner = await run_in_threadpool(look_up)
        self._known[caller] = (owner, now + KNOWN_S)
        self._known.move_to_end(caller)
        if len(self._known) > MOST_CALLERS:
            self._known.popitem(last=False)
        return owner
