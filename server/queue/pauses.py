"""Pauses: endpoints that an operator holds back. Requests are taken and wait; what runs ends as usual."""

import time
from dataclasses import dataclass

from sqlalchemy import delete, select

from server.queue import turns
from server.queue.drafts import UPSERT
from server.queue.store import Store
from server.queue.tables import pauses
from server.queue.wakeup import Wakeup


@dataclass(frozen=True)
class Pause:
    """`since`: unix seconds; `reason`: the operator's words, empty when none were said."""

    endpoint: str
    since: float
    reason: str


class Pauses:
    """Kept in the database, so that they hold on every host and after every restart."""

    def __init__(self, store: Store, wakeup: Wakeup) -> None:
        self._store, self._wakeup = store, wakeup

    def pause(self, endpoint: str, reason: str = "") -> None:
        """Let no worker begin a request of `endpoint` any more; said again, it changes the reason."""
        with self._store.writing_durably() as connection:
            pausing = UPSERT[connection.dialect.name](pauses).values(
                endpoint=endpoint, since=time.time(), reason=reason
            )
            again = pausing.on_conflict_do_update(index_elements=[pauses.c.endpoint], set_={"reason": reason})
            connection.execute(again)

    def resume(self, endpoint: str) -> bool:
        """Let the workers go on at once. False: it was not paused."""
        with self._store.writing_durably() as connection:
            paused = connection.execute(delete(pauses).where(pauses.c.endpoint == endpoint)).rowcount > 0
            if paused:
                turns.rejoin(connection, endpoint)
            self._wakeup.ring_with(connection, "work")
        self._wakeup.ring("work")
        return paused

    def every(self) -> list[Pause]:
        """By endpoint."""
        columns = (pauses.c.endpoint, pauses.c.since, pauses.c.reason)
        with self._store.reading() as connection:
            return [Pause(*row) for row in connection.execute(select(*columns).order_by(pauses.c.endpoint))]
