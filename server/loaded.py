"""Loaded: the probe of containers that run workers: ``python -m server.loaded``.

Exit status 0 once every worker of this host is ready, by what it told the queue; else 1 and why.
"""

import socket
import sys
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from server.queue.job import WorkerState
from server.queue.opening import open_queue
from server.queue.store import StoreError
from server.settings import Settings, SettingsError, read_settings


def main() -> int:
    """The exit status."""
    try:
        trouble = not_loaded(workers_of(read_settings()))
    except (SettingsError, StoreError, SQLAlchemyError) as error:
        trouble = f"the queue cannot be asked: {type(error).__name__}"
    if trouble:
        sys.stderr.write(f"not loaded: {trouble}\n")
    return bool(trouble)


def workers_of(settings: Settings) -> list[WorkerState]:
    """What the workers of this host last said. Raises StoreError, SQLAlchemyError."""
    host = settings.worker_name or socket.gethostname()
    with open_queue(settings) as queue:
        return [worker for worker in queue.workers() if worker.name.rpartition(":")[0] == host]


def not_loaded(workers: Sequence[WorkerState]) -> str:
    """Why not all are ready; empty when they are."""
    if not workers:
        return "no worker of this host has told the queue anything yet"
    return "; ".join(f"{one.name} is {one.state}: {one.message}" for one in workers if one.state != "ready")


if __name__ == "__main__":
    sys.exit(main())
