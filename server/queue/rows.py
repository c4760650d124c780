"""Statements about jobs that more than one of the queue's methods needs."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Connection, Row, Update, and_, insert, not_, or_, select, update

from server.errors import error_response
from server.queue.job import Job, Outcome
from server.queue.store import Clock
from server.queue.tables import jobs, outbox

WAITING = jobs.c.state == "IN_QUEUE"
RUNNING = jobs.c.state == "IN_PROGRESS"
ORDER = (jobs.c.priority, jobs.c.turn, jobs.c.seq)

STORED_FILE = re.compile(r'"file:([0-9a-f]{32}_[A-Za-z0-9._-]+)"')
"""A stored file's id in a row's JSON."""

JOB_COLUMNS = tuple(jobs.c[field.name] for field in fields(Job))


def job_of(row: Row[Any]) -> Job:
    return Job(**row._mapping)


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
    elsewhen = or_(RUNNING, jobs.c.created_at + jobs.c.start_timeout_s < time.time())
    passed = or_(
        and_(jobs.c.clock == clock.name, jobs.c.deadline < clock.now()), and_(jobs.c.clock != clock.name, elsewhen)
    )
    return and_(jobs.c.deadline.is_not(None), passed)


def claim_statement(clock: Clock, worker: str, endpoints: Sequence[str], most: int, lease_s: float) -> Update:
    """Give the oldest waiting job, and up to `most` of its endpoint, to `worker`: one statement on both databases.

    On PostgreSQL each CTE skips rows that another worker is just taking; a lock under a join would not (PgQueuer #761).
    """
    open_to_claim = and_(WAITING, not_(too_late(clock)))
    head = (
        select(jobs.c.endpoint)
        .where(open_to_claim, jobs.c.endpoint.in_(endpoints))
        .order_by(*ORDER)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("head")
        .prefix_with("MATERIALIZED")
    )
    pick = (
        select(jobs.c.seq)
        .where(open_to_claim, jobs.c.endpoint == select(head.c.endpoint).scalar_subquery())
        .order_by(*ORDER)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("pick")
        .prefix_with("MATERIALIZED")
    )
    return (
        update(jobs)
        .where(jobs.c.seq.in_(select(pick.c.seq)))
        .values(
            state="IN_PROGRESS",
            worker=worker,
            attempt=jobs.c.attempt + 1,
            started_at=time.time(),
            deadline=clock.now() + lease_s,
            clock=clock.name,
        )
        .returning(*JOB_COLUMNS)
    )


def requeue(connection: Connection, where: ColumnElement[bool], *, spare: bool) -> bool:
    """Put a running job back to its old place. `spare`: this attempt does not count against max_attempts."""
    back = (
        update(jobs)
        .where(where)
        .values(
            state="IN_QUEUE", worker=None, started_at=None, deadline=None, clock=None, spared=jobs.c.spared + int(spare)
        )
    )
    return connection.execute(back).rowcount == 1


def complete(connection: Connection, clock: Clock, where: ColumnElement[bool], outcome: Outcome) -> bool:
    """Finish the one job that `where` names, and queue its webhook, in the caller's transaction."""
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
