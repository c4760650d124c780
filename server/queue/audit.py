"""Audit: whether requests, webhooks and files agree with each other. Each contradiction is one sentence."""

import math
import time
from collections.abc import Iterator

from sqlalchemy import ColumnElement, Connection, and_, exists, func, not_, or_, select, text

from server.queue.inventory import FileStore, Stock, files_amiss
from server.queue.queue import Queue
from server.queue.rows import COMPLETED, RUNNING, WAITING
from server.queue.tables import deliveries, jobs, logs, outbox

SETTLES_S = 1.0
"""A deletion removes files before rows: on a queue at work, what is wrong only once is none."""
TOLD = and_(jobs.c.webhook.is_not(None), jobs.c.webhook != "")

RULES: tuple[tuple[ColumnElement[bool], str], ...] = (
    (not_(or_(WAITING, RUNNING, COMPLETED)), "is in a state that does not exist"),
    (and_(WAITING, or_(jobs.c.worker.is_not(None), jobs.c.started_at.is_not(None))), "waits, but a worker has it"),
    (and_(WAITING, jobs.c.drafts.is_not(None)), "waits, but names files that a worker is writing"),
    (
        and_(not_(COMPLETED), or_(jobs.c.http_status.is_not(None), jobs.c.finished_at.is_not(None))),
        "is unfinished, but has an outcome",
    ),
    (
        and_(RUNNING, or_(jobs.c.worker.is_(None), jobs.c.attempt < 1, jobs.c.started_at.is_(None))),
        "runs without a worker, an attempt or a start",
    ),
    (and_(RUNNING, or_(jobs.c.deadline.is_(None), jobs.c.clock.is_(None))), "runs without a lease"),
    (
        and_(COMPLETED, or_(jobs.c.http_status.is_(None), jobs.c.finished_at.is_(None), jobs.c.result.is_(None))),
        "is finished without a status, a time or a body",
    ),
    (and_(COMPLETED, jobs.c.http_status >= 400, jobs.c.error_type.is_(None)), "failed without saying how"),
    (and_(COMPLETED, jobs.c.http_status < 400, jobs.c.error_type.is_not(None)), "succeeded, but names an error"),
    (
        and_(COMPLETED, jobs.c.http_status < 400, or_(jobs.c.attempt < 1, jobs.c.started_at.is_(None))),
        "succeeded, but never ran",
    ),
    (and_(COMPLETED, jobs.c.deadline.is_not(None)), "is finished, but has a deadline"),
    (and_(COMPLETED, jobs.c.drafts.is_not(None)), "is finished, but names files that a worker is writing"),
    (jobs.c.spared > jobs.c.attempt, "was given back more often than it was taken"),
    (and_(not_(WAITING), jobs.c.attempt == 0, jobs.c.worker.is_not(None)), "has a worker, but was never taken"),
)
"""What no job's row may be, and how that is said."""


def audit(queue: Queue, files: FileStore, *, quiet: bool = True, keep_s: float = math.inf) -> list[str]:
    """Every contradiction, as one sentence without anything that a client sent; empty: all is consistent.

    Args:
        quiet: nothing works on the queue now, so that nothing may run, and no file may be half written. Else what
            looks wrong is looked at again a second later.
        keep_s: after how many seconds files are forgotten (keep_results_h): what is older may have lost its own.
    """
    found = contradictions(queue, files, quiet, keep_s)
    if quiet or not found:
        return found
    time.sleep(SETTLES_S)
    again = set(contradictions(queue, files, quiet, keep_s))
    return [told for told in found if told in again]


def contradictions(queue: Queue, files: FileStore, quiet: bool, keep_s: float) -> list[str]:
    """See audit."""
    store = queue._store
    stock = Stock.of(files)  # before the rows: whatever is written is known to them already
    with store.snapshot() as connection:
        if store.is_sqlite and (damage := damages(connection)):
            return damage
        found = [*broken_rules(connection, quiet), *webhooks_amiss(connection), *strangers(connection)]
        return found + list(files_amiss(connection, stock, quiet=quiet, keep_s=keep_s))


def damages(connection: Connection) -> list[str]:
    """What SQLite itself finds wrong with its file."""
    told = connection.execute(text("PRAGMA integrity_check(20)")).scalars()
    return [f"the database is damaged: {line}" for line in told if line != "ok"]


def broken_rules(connection: Connection, quiet: bool) -> Iterator[str]:
    rules = (*RULES, (RUNNING, "runs, though no worker does")) if quiet else RULES
    for broken, told in rules:
        for job_id in connection.scalars(select(jobs.c.id).where(broken)):
            yield f"request {job_id} {told}"


def webhooks_amiss(connection: Connection) -> Iterator[str]:
    """Each finished job with a webhook has one row in the outbox, and nothing else has one."""
    number = select(func.count()).where(outbox.c.job_id == jobs.c.id).correlate(jobs).scalar_subquery()
    due = select(jobs.c.id, number).where(COMPLETED, TOLD, number != 1)
    for job_id, rows in connection.execute(due):
        yield f"request {job_id} is finished and has {rows} webhooks in the outbox instead of 1"
    entitled = exists().where(jobs.c.id == outbox.c.job_id, COMPLETED, TOLD)
    for job_id in connection.scalars(select(outbox.c.job_id).where(not_(entitled))):
        yield f"request {job_id} has a webhook in the outbox, but is not finished, or wants none, or is not there"


def strangers(connection: Connection) -> Iterator[str]:
    """Log lines and deliveries of requests that are not there."""
    for table, told in ((logs, "log lines"), (deliveries, "deliveries")):
        unknown = not_(exists().where(jobs.c.id == table.c.job_id))
        for job_id in connection.scalars(select(table.c.job_id).where(unknown).distinct()):
            yield f"request {job_id} is not there, but its {told} are"
