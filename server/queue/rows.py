"""Statements about jobs that more than one of the queue's methods needs."""

import json
import time
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Row,
    and_,
    bindparam,
    insert,
    literal_column,
    not_,
    or_,
    select,
    update,
)

from server.errors import error_response
from server.queue.drafts import abandon
from server.queue.job import Job, Outcome
from server.queue.named import STORED_FILE
from server.queue.store import Clock
from server.queue.tables import jobs, outbox

# Written out, not bound: else a plan that is kept could not use the partial indexes.
WAITING = jobs.c.state == literal_column("'IN_QUEUE'")
RUNNING = jobs.c.state == literal_column("'IN_PROGRESS'")
COMPLETED = jobs.c.state == literal_column("'COMPLETED'")
UNFINISHED = jobs.c.state != literal_column("'COMPLETED'")
ORDER = (jobs.c.priority, jobs.c.turn, jobs.c.seq)

JOB_COLUMNS = tuple(jobs.c[field.name] for field in fields(Job))


def job_of(row: Row[Any]) -> Job:
    """Of a row that begins with JOB_COLUMNS."""
    return Job(*row[: len(JOB_COLUMNS)])


def outcome_of(error: Exception) -> Outcome:
    """How a job ends that failed with `error`."""
    response = error_response(error)
    return Outcome(response.status, response.body, response.error_type)


def held_by(job: Job) -> ColumnElement[bool]:
    """The fence: true only while `job` has not been given to someone else since it was claimed."""
    return and_(jobs.c.id == job.id, RUNNING, jobs.c.worker == job.worker, jobs.c.attempt == job.attempt)


def too_late(clock: Clock) -> ColumnElement[bool]:
    """A running job whose lease expired, or a waiting one whose start timeout passed.

    After a reboot the deadline's clock is gone: no worker survived, and for the start timeout the wall clock is left.
    """
    return or_(*overdue(clock))


def overdue(clock: Clock) -> tuple[ColumnElement[bool], ...]:
    """The cases of `too_late`, each a range of the index on clock and deadline."""
    wall = bindparam(None, callable_=time.time, type_=Float(), unique=True)
    elsewhen = or_(RUNNING, jobs.c.created_at + jobs.c.start_timeout_s < wall)
    due = jobs.c.deadline.is_not(None)
    return (
        and_(due, jobs.c.clock == clock.name, jobs.c.deadline < clock.now()),
        and_(due, jobs.c.clock < clock.name, elsewhen),
        and_(due, jobs.c.clock > clock.name, elsewhen),
    )


def complete(connection: Connection, clock: Clock, where: ColumnElement[bool], outcome: Outcome) -> bool:
    """Finish the one job that `where` names, and queue its webhook, in the caller's transaction."""
    abandon(connection, where, outcome.body)
    unstored = connection.scalar(select(jobs.c.input).where(where, not_(jobs.c.store_io)))
    forgotten = {} if unstored is None else {"input": what_remains_of(unstored)}
    done = (
        update(jobs)
        .where(where)
        .values(
            state="COMPLETED",
            finished_at=time.time(),
            deadline=None,
            clock=None,
            http_status=outcome.http_status,
            result=outcome.body,
            error_type=outcome.error_type,
            inference_time=outcome.inference_time,
            metrics=outcome.metrics,
            drafts=None,
            **forgotten,
        )
        .returning(jobs.c.id, jobs.c.webhook)
    )
    row = connection.execute(done).one_or_none()
    if row is not None and row.webhook:
        due = {"deadline": clock.now(), "clock": clock.name}
        host = urlsplit(row.webhook).netloc.lower()
        connection.execute(insert(outbox).values(job_id=row.id, url=row.webhook, host=host, **due))
    return row is not None


def what_remains_of(input: dict[str, Any]) -> dict[str, Any]:
    """Of the input of a request whose client wants nothing kept: only which photos must go with it."""
    return {"files": [f"file:{file_id}" for file_id in STORED_FILE.findall(json.dumps(input))]}
