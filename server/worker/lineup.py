"""Lineup: the jobs between a worker's claim and its device, and which of them are generated together."""

import threading
import time
from collections.abc import Hashable

from server.worker.assignment import Assignment

SLOW_S = 0.05
"""A picture that takes longer to fetch makes room for another job, so that it holds up none but its own."""
MOST_SLOW = 16
"""Jobs whose slow pictures may be fetched at the same time, with those that are just being given up."""


class Lineup:
    """In the order in which they were claimed. Safe to share between threads.

    A worker whose device is idle takes one job, which waits for nobody; one whose device is busy takes up to `most`
    ahead, and those that are alike are generated together: batches come about under pressure alone (decision 0040).

    Args:
        leaving: once it is set, and `wake` called, nobody waits here any more and nothing is given out.
        most: jobs generated together.
        wait_s: how long the device waits for others of its batch that are not ready yet.
    """

    def __init__(self, leaving: threading.Event, most: int = 1, wait_s: float = 0.0) -> None:
        self._leaving, self._most, self._wait_s = leaving, most, wait_s
        self._fits: dict[Hashable, int] = {}
        self._line: list[Assignment] = []
        self._taken: list[Assignment] = []
        self._fetches = 0
        self._changed = threading.Condition()

    @property
    def occupied(self) -> bool:
        """Whether the device is busy, or has something to do."""
        return bool(self._taken or self._line)

    def wake(self) -> None:
        """Let those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def room(self) -> int:
        """How many jobs may be claimed now; waits until it is at least one. 0: this worker leaves."""
        with self._changed:
            while not self._leaving.is_set():
                free, look_again_s = self._room()
                if free > 0:
                    return free
                self._changed.wait(look_again_s)
        return 0

    def enter(self, assignment: Assignment) -> None:
        """A claimed job, whose pictures are to be fetched."""
        with self._changed:
            self._line.append(assignment)

    def fetch_begins(self) -> None:
        """A thread begins to fetch a job's pictures."""
        with self._changed:
            self._fetches += 1

    def fetch_ends(self) -> None:
        """It is over: only now, for it goes on when its job leaves the line, and keeps its connections."""
        with self._changed:
            self._fetches -= 1
            self._changed.notify_all()

    def fetched(self, assignment: Assignment) -> None:
        """It has its pictures."""
        with self._changed:
            assignment.stage = "fetched"
            self._changed.notify_all()

    def ready(self, assignment: Assignment) -> None:
        """It can be generated."""
        with self._changed:
            assignment.stage = "ready"
            self._changed.notify_all()

    def withdraw(self, assignment: Assignment) -> bool:
        """Take it out of the line. False: it is not there, or not any more."""
        with self._changed:
            if assignment not in self._line:
                return False
            self._line.remove(assignment)
            self._changed.notify_all()
            return True

    def take(self) -> list[Assignment]:
        """The oldest job that is ready and those to be generated with it; waits for it. Empty: this worker leaves.

        Whoever takes is done with what it took before.
        """
        with self._changed:
            self._taken = []
            self._changed.notify_all()
            batch: list[Assignment] = []
            while not batch and not self._leaving.is_set():
                self._changed.wait_for(lambda: self._leaving.is_set() or self._batch())
                self._changed.wait_for(lambda: self._leaving.is_set() or not self._awaited(), self._wait_s)
                batch = [] if self._leaving.is_set() else self._batch()
            for assignment in batch:
                self._line.remove(assignment)
                assignment.stage, assignment.shared = "taken", len(batch) > 1
            self._taken = batch
            self._changed.notify_all()
            return batch

    def shrink(self, like: Assignment, most: int) -> None:
        """Of jobs like this one no more than `most` fit on the device together."""
        with self._changed:
            self._fits[like.batch_key] = most

    def _room(self) -> tuple[int, float | None]:
        """How many jobs may be claimed, and after how many seconds the answer may be another one by itself."""
        if any(one.suspect for one in (*self._line, *self._taken)):
            return 0, None  # it may be what ended its last worker: nothing else shall be in this one's hands then
        now = time.monotonic()
        fetching = [one.began_at + SLOW_S - now for one in self._line if one.stage == "fetching"]
        fresh = [left_s for left_s in fetching if left_s > 0]
        if fresh:
            return 0, min(fresh)
        if self._fetches >= MOST_SLOW:
            return 0, None
        return (self._most if self._taken else 1) - (len(self._line) - len(fetching)), None

    def _batch(self) -> list[Assignment]:
        ready = [one for one in self._line if one.stage == "ready"]
        if not ready or ready[0].batch_key is None:
            return ready[:1]
        return [one for one in ready if one.batch_key == ready[0].batch_key][: self._limit(ready[0])]

    def _limit(self, like: Assignment) -> int:
        return self._fits.get(like.batch_key, self._most)

    def _awaited(self) -> bool:
        """Whether a job that may turn out to belong to the next batch is about to be ready."""
        batch = self._batch()
        if not batch or batch[0].batch_key is None or len(batch) >= self._limit(batch[0]):
            return False
        told = (batch[0].job.endpoint, batch[0].job.batch_key)
        slow_since = time.monotonic() - SLOW_S
        coming = [one for one in self._line if one.stage == "fetched" or one.began_at > slow_since]
        alike = [one for one in coming if (one.job.endpoint, one.job.batch_key) == told and one.batch_key is not None]
        return any(one.stage != "ready" for one in alike)
