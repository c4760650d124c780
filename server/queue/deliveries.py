"""The delivery log: every try to send a webhook, for the operator; and the wish to send one again."""

import time
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import exists, func, insert, select, update

from server.queue.store import Store
from server.queue.tables import deliveries, jobs, outbox

State = Literal["waiting", "delivered", "given up"]
MOST_LISTED = 1000


@dataclass(frozen=True)
class Delivery:
    """One try. `status`: what the receiver answered; None: `reason` says why there was no answer.

    Args:
        tried_at / duration_s: unix seconds / seconds.
    """

    tried_at: float
    status: int | None
    reason: str | None
    duration_s: float


@dataclass(frozen=True)
class Sending:
    """The sending of one request's webhook. `host`: the receiver; `last`: the latest try, if there was one."""

    job_id: str
    host: str
    state: State
    tries: int
    last: Delivery | None


class Deliveries:
    """Kept as long as their requests. No bodies, and no URLs beyond the receiver's host."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, job_id: str, status: int | None, reason: str | None, duration_s: float) -> None:
        """A try has just ended. Of a request that was deleted meanwhile nothing is noted."""
        row = {"tried_at": time.time() - duration_s, "status": status, "reason": reason, "duration_s": duration_s}
        with self._store.writing() as connection:
            if connection.scalar(select(exists().where(jobs.c.id == job_id))):
                connection.execute(insert(deliveries).values(job_id=job_id, **row))

    def of(self, job_id: str) -> list[Delivery]:
        """Every try of one request's webhook, oldest first."""
        columns = (deliveries.c.tried_at, deliveries.c.status, deliveries.c.reason, deliveries.c.duration_s)
        query = select(*columns).where(deliveries.c.job_id == job_id).order_by(deliveries.c.id)
        with self._store.reading() as connection:
            return [Delivery(*row) for row in connection.execute(query)]

    def sendings(self, *, failed: bool = False, job_id: str | None = None) -> list[Sending]:
        """The newest 1000, newest first. `failed`: only those that were given up, or failed so far."""
        latest = select(deliveries.c.job_id, func.max(deliveries.c.id).label("id")).group_by(deliveries.c.job_id)
        newest = latest.subquery()
        columns = (outbox.c.job_id, outbox.c.host, outbox.c.deadline, outbox.c.last_error, outbox.c.tries)
        tried = (deliveries.c.tried_at, deliveries.c.status, deliveries.c.reason, deliveries.c.duration_s)
        source = outbox.outerjoin(newest, newest.c.job_id == outbox.c.job_id).outerjoin(
            deliveries, deliveries.c.id == newest.c.id
        )
        query = select(*columns, *tried).select_from(source).order_by(outbox.c.id.desc()).limit(MOST_LISTED)
        if failed:
            query = query.where(outbox.c.last_error.is_not(None))
        if job_id is not None:
            query = query.where(outbox.c.job_id == job_id)
        with self._store.reading() as connection:
            return [
                Sending(row[0], row[1], _state(row[2], row[3]), row[4], Delivery(*row[5:]) if row[5] else None)
                for row in connection.execute(query)
            ]

    def replay(self, job_id: str) -> bool:
        """Put a webhook back into the outbox, due now, with all its retries. False: the request has none here."""
        clock = self._store.clock
        # One that is just being sent has its deadline in the future as any other: it may arrive twice, as fal's may.
        again = {"deadline": clock.now(), "clock": clock.name, "spared": outbox.c.tries, "last_error": None}
        with self._store.writing_durably() as connection:
            return connection.execute(update(outbox).where(outbox.c.job_id == job_id).values(again)).rowcount > 0


def _state(deadline: float | None, error: str | None) -> State:
    if deadline is not None:
        return "waiting"
    return "delivered" if error is None else "given up"
