"""Erase: requests and all that the server keeps of them, before keep_results_h would."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, select, true

from server.errors import ClientCancelled
from server.queue.job import State
from server.queue.named import RESULT, STORED_FILE, batches
from server.queue.removal import remove_photos
from server.queue.rows import COMPLETED, UNFINISHED, complete, outcome_of
from server.queue.store import Clock, Store
from server.queue.tables import deliveries, files, jobs, logs, outbox


@dataclass(frozen=True)
class Entry:
    """A stored request as the operator sees it: nothing of what it holds. Times in unix seconds."""

    id: str
    endpoint: str
    owner: str
    state: State
    http_status: int | None
    created_at: float
    finished_at: float | None


def register(store: Store, owner: str | None, finished_for_s: float | None, most: int | None) -> list[Entry]:
    """Stored requests, newest first; of one owner, or those finished for longer than `finished_for_s`."""
    columns = [jobs.c[name] for name in Entry.__dataclass_fields__]
    found = select(*columns).where(*wanted(owner, finished_for_s)).order_by(jobs.c.seq.desc()).limit(most)
    with store.reading() as connection:
        return [Entry(*row) for row in connection.execute(found)]


def wanted(owner: str | None, finished_for_s: float | None) -> Iterator[ColumnElement[bool]]:
    yield jobs.c.owner == owner if owner is not None else true()
    if finished_for_s is not None:
        yield and_(COMPLETED, jobs.c.finished_at < time.time() - finished_for_s)


def end(connection: Connection, clock: Clock, job_ids: Sequence[str]) -> None:
    """Cancel what is unfinished. The fence moves: a worker stops after its step, and drops what it made."""
    open_ones = select(jobs.c.id).where(jobs.c.id.in_(job_ids), UNFINISHED)
    # In one order: two erasures of the same requests must not wait for each other.
    for job_id in connection.scalars(open_ones.order_by(jobs.c.seq).with_for_update()).all():
        complete(connection, clock, jobs.c.id == job_id, outcome_of(ClientCancelled()))


def results_of(connection: Connection, job_ids: Sequence[str]) -> list[str]:
    """The stored files that these requests made."""
    made = select(RESULT).where(jobs.c.id.in_(job_ids), jobs.c.http_status < 400)  # an error repeats its client's words
    return sorted({file_id for text in connection.scalars(made) for file_id in STORED_FILE.findall(text)})


def forget(connection: Connection, job_ids: Sequence[str], file_ids: Sequence[str] = ()) -> None:
    """Remove the rows of these requests, and what is known of their files."""
    for table in (logs, outbox, deliveries):
        connection.execute(delete(table).where(table.c.job_id.in_(job_ids)))
    connection.execute(delete(jobs).where(jobs.c.id.in_(job_ids)))
    for some in batches(file_ids):
        connection.execute(delete(files).where(files.c.id.in_(some)))


def erase(store: Store, job_ids: Sequence[str], delete_files: Callable[[Sequence[str]], None]) -> None:
    """The bytes first, then the rows: after a crash in between, the request is still there to be erased again."""
    with store.reading() as connection:
        results = results_of(connection, job_ids)
    delete_files(results)
    remove_photos(store, job_ids, delete_files)
    with store.writing_durably() as connection:
        forget(connection, job_ids, results)
