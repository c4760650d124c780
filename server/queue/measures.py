"""Measures: what the processes of a server publish about themselves, for the metrics that any HTTP process shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, or_, select

from server.queue.drafts import UPSERT
from server.queue.store import Store
from server.queue.tables import measures

FORGOTTEN_S = 3600.0
"""Rows of processes that were silent for so long are deleted: names of containers never come back."""


@dataclass(frozen=True)
class Measure:
    """What `process` published last: families of samples as server.metrics.samples_of makes them."""

    process: str
    samples: list[dict[str, Any]]


class Measures:
    """One row per process, replaced as a whole.

    Args:
        fresh_s: a process that published nothing for this long is left out: it is gone, or its numbers are untrue.
    """

    def __init__(self, store: Store, fresh_s: float) -> None:
        self._store, self._fresh_s = store, fresh_s

    def publish(self, process: str, samples: Sequence[dict[str, Any]]) -> None:
        """Replace what this process published before."""
        clock = self._store.clock
        said = {"samples": list(samples), "seen": clock.now(), "clock": clock.name}
        gone = or_(measures.c.clock != clock.name, measures.c.seen < clock.now() - FORGOTTEN_S)
        with self._store.writing() as connection:
            connection.execute(delete(measures).where(measures.c.process != process, gone))
            saying = UPSERT[connection.dialect.name](measures).values(process=process, **said)
            connection.execute(saying.on_conflict_do_update(index_elements=[measures.c.process], set_=said))

    def every(self) -> list[Measure]:
        """Of each process that published in time, in the order of their names."""
        clock = self._store.clock
        fresh = measures.c.seen >= clock.now() - self._fresh_s
        rows = select(measures.c.process, measures.c.samples).where(measures.c.clock == clock.name, fresh)
        with self._store.reading() as connection:
            return [Measure(*row) for row in connection.execute(rows.order_by(measures.c.process))]

    def forget(self, process: str) -> None:
        """The process leaves in order."""
        with self._store.writing() as connection:
            connection.execute(delete(measures).where(measures.c.process == process))
