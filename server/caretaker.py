"""Caretaker: what must happen whether or not anybody asks: rescue lost jobs, forget old requests and their files."""

import math
import threading
import time
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.files import FileStore
from server.queue.queue import Queue

RESCUE_EVERY_S = 1.0
SWEEP_EVERY_S = 5.0
PROMOTE_EVERY_S = 10.0
PRUNE_EVERY_S = 3600.0
SPEAKS_WITHIN = 1.5
"""Heartbeats that a live worker needs at most to be heard, once the database takes writes again."""
OFTEN = 10
"""What has its time is looked for at least so often within that time."""

log = structlog.get_logger()


@dataclass
class Rhythm:
    """When something is to be done again. `due_at`: on the monotonic clock; at once, the first time."""

    every_s: float
    due_at: float = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self.due_at:
            return False
        self.due_at = now + self.every_s
        return True

    def put_off(self, for_s: float) -> None:
        self.due_at = time.monotonic() + for_s


def take_care(
    queue: Queue,
    files: FileStore,
    keep_results_h: float,
    stop: threading.Event,
    heartbeat_s: float,
    low_wait_s: float = math.inf,
) -> None:
    """Until `stop`. Any number of processes may do this at once; each step is one transaction that excludes the others.

    After a time in which this was held up, or the database was away, live workers speak first: their leases ended, too.

    Args:
        keep_results_h: how long finished requests are kept, and files since they were written.
        heartbeat_s: how often a live worker renews its leases.
        low_wait_s: how long a low-priority request waits before it is made a normal one; infinite: for ever.
    """
    keep_s = keep_results_h * 3600
    rescuing, hear_s = Rhythm(0), SPEAKS_WITHIN * heartbeat_s
    sweeping, promoting = Rhythm(SWEEP_EVERY_S), Rhythm(min(PROMOTE_EVERY_S, low_wait_s / OFTEN))
    pruning = Rhythm(min(PRUNE_EVERY_S, keep_s / OFTEN))
    looked_at = time.monotonic()
    while not stop.wait(RESCUE_EVERY_S):
        if time.monotonic() - looked_at > RESCUE_EVERY_S + heartbeat_s:
            rescuing.put_off(hear_s)
        looked_at = time.monotonic()
        try:
            rescue(queue, rescuing, hear_s)
            if promoting.due() and (promoted := queue.promote(low_wait_s)):
                log.info("low-priority jobs made normal", count=promoted)
            if sweeping.due():
                sweep(queue, files)
            if pruning.due():
                requests = queue.prune(keep_s, files.delete)
                log.info("pruned", requests=requests, files=files.prune(keep_s, queue.ledger.remove_old))
        except (SQLAlchemyError, OSError) as error:
            log.warning("cannot take care of the queue", error=type(error).__name__)


def rescue(queue: Queue, rescuing: Rhythm, hear_s: float) -> None:
    """Raises SQLAlchemyError. An object store that is away puts nothing off: workers could speak all the time."""
    try:
        moved = queue.rescue() if queue.overdue() and rescuing.due() else 0
    except SQLAlchemyError:
        rescuing.put_off(hear_s)
        raise
    if moved is None:
        rescuing.put_off(hear_s)
    elif moved:
        log.warning("overdue jobs are queued again or over", count=moved)


def sweep(queue: Queue, files: FileStore) -> None:
    """Delete the files whose time is over, and uploads that nobody finished: the bytes first, then what is known."""
    if deleted := queue.ledger.sweep(files.delete):
        log.info("expired files deleted", count=deleted)
