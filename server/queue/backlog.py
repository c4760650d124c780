"""Backlog: how many jobs wait, counted exactly while they are few; of many, each submit counts only what is new."""

import time
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, select

from server.queue.rows import WAITING
from server.queue.tables import jobs

FEW = 64
"""Counted within a fraction of a millisecond."""
FRESH_S = 0.25
NORMAL, LOW = 0, 1


@dataclass(frozen=True)
class Count:
    """A count of all waiting jobs. `last`: the greatest seq then; time of the monotonic clock."""

    counted_at: float
    normal: int
    low: int
    last: int

    @property
    def usable(self) -> bool:
        """Whether to count again costs more than it tells."""
        return self.normal + self.low >= FEW and time.monotonic() - self.counted_at < FRESH_S


class Backlog:
    """One process's knowledge. Between two counts it can only be too high: jobs that began meanwhile are still in it.

    So a request's position never rises from what its submit said, as fal promises (fal-protocol.md §10, 26).
    """

    def __init__(self) -> None:
        self._known = Count(0.0, 0, 0, 0)

    def waiting(self, connection: Connection) -> int:
        """How many jobs wait, of both priorities."""
        known = self._fresh(connection)
        newer = jobs.c.seq > known.last
        return known.normal + known.low + number(connection, newer)

    def ahead(self, connection: Connection, priority: int, seq: int) -> int:
        """How many waiting jobs come before the one of this priority and seq; exact unless it is a new one of many."""
        known = self._fresh(connection)
        if seq <= known.last:
            earlier = and_(jobs.c.priority == priority, jobs.c.seq < seq)
            return number(connection, earlier) + (number(connection, jobs.c.priority < priority) if priority else 0)
        newer = and_(jobs.c.priority == priority, jobs.c.seq > known.last, jobs.c.seq < seq)
        if priority == NORMAL:
            return known.normal + number(connection, newer)
        overtaking = and_(jobs.c.priority == NORMAL, jobs.c.seq > known.last)
        return known.normal + known.low + number(connection, newer) + number(connection, overtaking)

    def _fresh(self, connection: Connection) -> Count:
        if not self._known.usable:
            each = select(jobs.c.priority, func.count(), func.max(jobs.c.seq)).where(WAITING).group_by(jobs.c.priority)
            found = {row[0]: (row[1], row[2]) for row in connection.execute(each)}
            last = max((last for _, last in found.values()), default=0)
            normal, low = (found.get(priority, (0, 0))[0] for priority in (NORMAL, LOW))
            self._known = Count(time.monotonic(), normal, low, last)
        return self._known


def number(connection: Connection, which: ColumnElement[bool]) -> int:
    return connection.scalar(select(func.count()).select_from(jobs).where(WAITING, which)) or 0
