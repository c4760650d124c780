"""Opens the queue that the settings name, and closes it."""

from collections.abc import Iterator
from contextlib import contextmanager

from server.queue.queue import Queue
from server.settings import Settings


@contextmanager
def open_queue(settings: Settings) -> Iterator[Queue]:
    """The queue; its tables must exist (server.queue.migrations.create_tables). Raises StoreError."""
    queue = Queue(settings.resolved_database_url, lease_s=settings.lease_s, max_attempts=settings.max_attempts)
    try:
        yield queue
    finally:
        queue.close()
