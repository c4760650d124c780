"""Pulse: keeps the leases of the jobs in hand, carries their log lines out and their clients' wishes in."""

import threading
import time
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.queue.queue import Queue
from server.worker.assignment import Assignment

log = structlog.get_logger()


class Pulse:
    """Beaten by a thread that never computes, so that a busy GPU cannot delay it.

    Args:
        heartbeat_s: how often a lease is renewed; in between, a beat only reads.
    """

    def __init__(self, queue: Queue, heartbeat_s: float) -> None:
        self.queue, self.heartbeat_s = queue, heartbeat_s
        self._hands: dict[str, Assignment] = {}
        self._lock = threading.Lock()
        self._renewed_at = time.monotonic()

    def hold(self, assignment: Assignment) -> None:
        with self._lock:
            self._hands[assignment.job.id] = assignment

    def drop(self, assignment: Assignment) -> None:
        with self._lock:
            self._hands.pop(assignment.job.id, None)

    @property
    def in_hand(self) -> Sequence[Assignment]:
        with self._lock:
            return list(self._hands.values())

    def beat(self) -> bool:
        """Look after every job in hand. Returns whether this beat renewed the leases."""
        renew = time.monotonic() - self._renewed_at >= self.heartbeat_s
        if renew:
            self._renewed_at = time.monotonic()
        for assignment in self.in_hand:
            try:
                self._look_after(assignment, renew)
            except SQLAlchemyError as error:  # the lease lasts for some more beats
                log.warning("the queue does not answer", request_id=assignment.job.id, error=type(error).__name__)
        return renew

    def _look_after(self, assignment: Assignment, renew: bool) -> None:
        beat = self.queue.heartbeat(assignment.job) if renew else self.queue.look(assignment.job)
        if not beat.owned:
            assignment.stop = "lost"
        elif beat.cancel:
            assignment.stop = assignment.stop or "cancelled"
        assignment.flush(self.queue)
