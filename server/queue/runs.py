"""Runs: what one run of a worker, from its start to its end, has in its hands and has brought to an end."""

from dataclasses import dataclass

from sqlalchemy import exists, select

from server.queue.rows import COMPLETED, RUNNING
from server.queue.store import Store
from server.queue.tables import jobs


@dataclass(frozen=True)
class Deeds:
    """`held`: ids of the jobs in its hands; `did_well`: whether it finished any with a result."""

    held: frozenset[str]
    did_well: bool


class Runs:
    """A run is named by the fencing token that its jobs carry: no two runs share one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def deeds(self, worker: str, since: float) -> Deeds:
        """Of the run `worker` that began at `since` (unix seconds): must be asked before its jobs are given away."""
        held = select(jobs.c.id).where(RUNNING, jobs.c.worker == worker)
        lately = jobs.c.finished_at >= since  # the index that keeps this from reading every finished job
        well = exists().where(COMPLETED, lately, jobs.c.worker == worker, jobs.c.http_status == 200)
        with self._store.reading() as connection:
            return Deeds(frozenset(connection.scalars(held)), bool(connection.scalar(select(well))))
