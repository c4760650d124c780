"""Submission: a request on its way into the queue, on the terms of its client."""

import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.sql.dml import ReturningInsert

from server.queue import limits
from server.queue.drafts import accept
from server.queue.idempotency import Idempotency, earlier, take_turns
from server.queue.job import Job, Outcome
from server.queue.places import Places
from server.queue.rows import JOB_COLUMNS, complete, job_of
from server.queue.store import Clock
from server.queue.tables import jobs
from server.queue.turns import next_turn


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a client wants its request to be queued; what is not told here is as in Job.

    Args:
        store_io: False: forget the input once the job is finished, and the job soon after.
        max_queue / max_waiting / max_unfinished: see server.queue.limits.
    """

    base_url: str
    priority: int = 0
    webhook: str | None = None
    start_timeout_s: float | None = None
    store_io: bool = True
    max_queue: int | None = None
    max_waiting: int | None = None
    max_unfinished: int | None = None
    no_retry: bool = False
    lifecycle: dict[str, Any] | None = None

    @property
    def limits(self) -> dict[str, int | None]:
        """See server.queue.limits."""
        return {"max_queue": self.max_queue, "max_waiting": self.max_waiting, "max_unfinished": self.max_unfinished}


@dataclass(frozen=True)
class Submission(Terms):
    """What a submit decides.

    Args:
        input: valid for the endpoint's Input, unless the submission is finished already.
        idempotency: the same submit again gets the request that is there already.
        photos: stored files that the input names, known as drafts until now.
        finished: (http_status, body, error_type) of a request that needs no worker, such as an invalid input.
    """

    endpoint: str
    input: dict[str, Any]
    owner: str
    batch_key: str = ""
    idempotency: Idempotency | None = None
    photos: Collection[str] = ()
    finished: tuple[int, dict[str, Any], str | None] | None = None


COLUMNS = [name for name in Submission.__dataclass_fields__ if name in jobs.c]
INSERT = insert(jobs).returning(*JOB_COLUMNS)


def submit(
    connection: Connection, clock: Clock, places: Places, wanted: Submission, storing: ReturningInsert[Any] = INSERT
) -> Job:
    """Store the request, in the caller's transaction; or find the one that its client has submitted before.

    Args:
        storing: INSERT, and columns that make the request known.

    Raises:
        QueueFull, ConcurrentRequests, IdempotencyKeyReused: nothing was stored.
        Unavailable: nor was it now, since the photos were swept meanwhile.
    """
    take_turns(connection, wanted.owner)
    accept(connection, wanted.photos)
    if wanted.idempotency and (known := earlier(connection, wanted.owner, wanted.idempotency)) is not None:
        return known
    row = {name: getattr(wanted, name) for name in COLUMNS} | (wanted.idempotency.columns if wanted.idempotency else {})
    row |= {"id": str(uuid.uuid4()), "state": "IN_QUEUE", "created_at": time.time()}
    if wanted.finished is None:
        limits.check(connection, places, wanted.owner, **wanted.limits)
        row["turn"] = next_turn(connection, wanted.owner, wanted.endpoint, wanted.priority)
    if wanted.start_timeout_s is not None:
        storing = storing.values(deadline=clock.now() + wanted.start_timeout_s, clock=clock.name)
    stored = connection.execute(storing, row).one()
    if wanted.finished is None:
        return job_of(stored)
    this = jobs.c.id == row["id"]
    complete(connection, clock, this, Outcome(*wanted.finished))
    return job_of(connection.execute(select(*JOB_COLUMNS).where(this)).one())
