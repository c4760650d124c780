"""Caretaker: what must happen whether or not anybody asks: rescue lost jobs, forget old requests and their files."""

import threading
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.files import FileStore
from server.queue.queue import Queue

RESCUE_EVERY_S = 1.0
PRUNE_EVERY_S = 3600.0
"""Or ten times within keep_results_h, where that is shorter."""

log = structlog.get_logger()


def take_care(queue: Queue, files: FileStore, keep_results_h: float, stop: threading.Event) -> None:
    """Until `stop`. Any number of processes may do this at once; each step is one transaction that excludes the others.

    Args:
        keep_results_h: how long finished requests are kept, and files since they were written.
    """
    every_s = min(PRUNE_EVERY_S, keep_results_h * 3600 / 10)
    pruned_at = time.monotonic() - every_s
    while not stop.wait(RESCUE_EVERY_S):
        try:
            rescued = queue.rescue()
            if rescued:
                log.warning("jobs rescued", count=rescued)
            sweep(queue, files)
            if time.monotonic() - pruned_at >= every_s:
                pruned_at = time.monotonic()
                requests = queue.prune(keep_results_h * 3600, files.delete)
                log.info("pruned", requests=requests, files=files.prune(keep_results_h * 3600))
        except (SQLAlchemyError, OSError) as error:
            log.warning("cannot take care of the queue", error=type(error).__name__)


def sweep(queue: Queue, files: FileStore) -> None:
    """Delete the files whose time is over, and uploads that nobody finished: the bytes first, then what is known."""
    over = queue.ledger.over()
    if over:
        files.delete(over)
        queue.ledger.forget(over)
        log.info("expired files deleted", count=len(over))
