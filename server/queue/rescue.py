"""Jobs that nobody will finish otherwise: expired leases, passed start timeouts; and the end of old ones."""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, case, exists, insert, not_, or_, select

from server.errors import ClientCancelled, RequestTimeout, RunnerDisconnected
from server.queue.erase import forget
from server.queue.job import Outcome
from server.queue.removal import remove_photos
from server.queue.rows import COMPLETED, RUNNING, complete, outcome_of, overdue, too_late
from server.queue.store import Clock, Store
from server.queue.tables import jobs, logs, outbox
from server.queue.turns import requeue

BATCH, PAGES = 500, 500
"""Rows, pages of 4 KiB: as much as one transaction deletes."""
DELIVERY_S = 3600.0
"""How long a result waits for its client that asked for nothing to be kept; fal keeps it about an hour, too."""
LOCKED_S = 0.5
"""Whoever waited so long for its turn to write was not the only one."""
RERUN = "The worker stopped; the request is queued again."


def needed(store: Store, worker: str | None) -> bool:
    """Whether there is anything to rescue: a read, so that looking every second costs no write lock."""
    with store.reading() as connection:
        return bool(connection.scalar(reasons(store.clock, worker)))


@lru_cache(maxsize=8)
def reasons(clock: Clock, worker: str | None) -> Select[bool]:
    """An EXISTS each, so that every one is a look into an index. Asked every second, so not composed anew each time."""
    all_reasons = [*overdue(clock), *([held_by_worker(worker)] if worker else [])]
    return select(or_(*(exists().where(reason) for reason in all_reasons)))


def held_by_worker(worker: str) -> ColumnElement[bool]:
    return and_(RUNNING, jobs.c.worker == worker)


def rescue(connection: Connection, clock: Clock, max_attempts: int, worker: str | None) -> int:
    """Requeue or finish each lost job. See Queue.rescue."""
    columns = (jobs.c.seq, jobs.c.id, jobs.c.state, jobs.c.attempt, jobs.c.spared)
    wishes = (jobs.c.cancel_requested, jobs.c.no_retry)
    lost, first = too_late(clock), []
    if worker:  # what it held must not wait for a next call, which would not name it
        lost, first = or_(lost, held_by_worker(worker)), [case((held_by_worker(worker), 0), else_=1)]
    found = select(*columns, *wishes).where(lost).order_by(*first, jobs.c.seq).limit(BATCH)
    rows = connection.execute(found.with_for_update(skip_locked=True)).mappings().all()
    for row in rows:
        outcome = _ending(row, max_attempts)
        if outcome:
            complete(connection, clock, jobs.c.seq == row["seq"], outcome)
        else:
            requeue(connection, jobs.c.seq == row["seq"], spare=False)
            line = {"timestamp": time.time(), "message": RERUN, "level": "WARN", "source": "USER"}
            connection.execute(insert(logs).values(job_id=row["id"], **line))
    return len(rows)


def _ending(row: RowMapping, max_attempts: int) -> Outcome | None:
    """How a lost job ends; None: it is run again."""
    if row["state"] == "IN_QUEUE":
        return outcome_of(RequestTimeout())
    if row["cancel_requested"]:
        return outcome_of(ClientCancelled())
    if row["no_retry"] or row["attempt"] - row["spared"] >= max_attempts:
        return outcome_of(RunnerDisconnected())
    return None


def prune(store: Store, older_than_s: float, delete_files: Callable[[Sequence[str]], None]) -> int:
    """Delete finished jobs in small transactions, so that no submit waits long. See Queue.prune."""
    untold = exists().where(outbox.c.job_id == jobs.c.id, outbox.c.deadline.is_not(None))
    keep_s = case((jobs.c.store_io, older_than_s), else_=min(older_than_s, DELIVERY_S))
    old = and_(COMPLETED, jobs.c.finished_at < time.time() - keep_s, not_(untold))
    total = 0
    while True:
        with store.reading() as connection:
            rows = connection.execute(select(jobs.c.id, jobs.c.store_io).where(old).limit(BATCH)).all()
        ids = [row.id for row in rows]
        remove_photos(store, [row.id for row in rows if not row.store_io], delete_files)
        with store.writing() as connection:
            forget(connection, ids)
        total += len(ids)
        if len(ids) < BATCH:
            give_back(store)
            return total


def give_back(store: Store) -> None:
    """Give the pages of a SQLite file that are free now back to its disk, in small transactions, too."""
    while store.is_sqlite:
        with store.reading() as connection:
            if not connection.exec_driver_sql("PRAGMA freelist_count").scalar():
                return
            # Python's execute() would take one step, which frees one page; a script is a transaction of its own.
            connection.connection.cursor().executescript(f"PRAGMA incremental_vacuum({PAGES})")
