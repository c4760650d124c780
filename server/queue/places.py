"""Places: how many requests come before one, without counting the queue for each client that asks."""

import threading
import time
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence

from sqlalchemy import Connection, select

from server.queue.job import Job
from server.queue.rows import ORDER, WAITING
from server.queue.tables import jobs

FEW = 64
"""So many are read anew each time, within a fraction of a millisecond."""
REST = 20
"""A longer queue is read again after this many times as long as it took: at most 5 % of a core, however many ask."""
MOST_TOLD = 100_000
"""Jobs of which it is remembered what their clients were told."""

KEYS = select(*ORDER).where(WAITING)


class Places:
    """One process's knowledge of the order in which jobs wait; safe to share between threads.

    Arrivals are in it at once; those that left are still in it until the queue is read again. So a place can be too
    high for a moment, never too low. A job that is overtaken by another key's turn keeps the place that its client was
    told among those of its priority: there, fal's `queue_position` never rises (fal-protocol.md §10, 26).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: list[tuple[int, ...]] = []
        self._last, self._read_again_at = 0, 0.0
        self._told = OrderedDict[tuple[int, int], int]()

    def waiting(self, connection: Connection) -> int:
        """How many jobs wait."""
        with self._lock:
            self._look(connection)
            return len(self._keys)

    def ahead(self, connection: Connection, waiting: Sequence[Job]) -> dict[str, int]:
        """How many jobs come before each of these, by its id."""
        with self._lock:
            self._look(connection)
            return {job.id: self._tell(job) for job in waiting}

    def forget(self) -> None:
        """What was read last may have been rolled back: a transaction sees what it is about to store."""
        with self._lock:
            self._keys, self._last = [], 0

    def _tell(self, job: Job) -> int:
        more_urgent = bisect_left(self._keys, (job.priority,))
        place = bisect_left(self._keys, (job.priority, job.turn, job.seq)) - more_urgent
        known = (job.seq, job.priority)
        self._told[known] = least = min(place, self._told.get(known, place))
        self._told.move_to_end(known)
        if len(self._told) > MOST_TOLD:
            self._told.popitem(last=False)
        return more_urgent + least

    def _look(self, connection: Connection) -> None:
        began = time.monotonic()
        if len(self._keys) < FEW or began >= self._read_again_at:
            self._keys = [tuple(row) for row in connection.execute(KEYS.order_by(*ORDER))]
            self._last = max((seq for _, _, seq in self._keys), default=0)
            ended = time.monotonic()
            self._read_again_at = ended + REST * (ended - began)
            return
        for row in connection.execute(KEYS.where(jobs.c.seq > self._last)):
            insort(self._keys, tuple(row))
            self._last = max(self._last, row.seq)
