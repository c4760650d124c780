"""Removal: of the bytes of files that nobody needs any more, while whoever is about to name one of them waits.

The bytes of a photo are the same file in every request, so that one can be submitted again at any moment. It is deleted
in the transaction that holds its row in the ledger: a submit that expects the photo either was there before, and the
photo stays; or waits for the end, and writes it again (docs/decisions/0025-deletion.md).
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, delete, func, not_, select, text

from server.queue.drafts import DRAFT, UPSERT
from server.queue.named import INPUT, STORED_FILE, batches, unnamed
from server.queue.store import Store
from server.queue.tables import files, jobs

FEW = 20
"""Files whose bytes are deleted in one transaction: on SQLite every other writer waits for it."""
MOST_AT_ONCE = 500

DeleteFiles = Callable[[Sequence[str]], None]


def remove_photos(store: Store, job_ids: Sequence[str], delete_files: DeleteFiles) -> None:
    """Delete the stored files that only these requests' inputs name, and that are no uploads: those are their owner's.

    The same photo in two requests is one file: it stays as long as one of them does, or a submit is about to name it.
    """
    with store.snapshot() as connection:
        seen, texts = newest(connection), connection.scalars(select(INPUT).where(jobs.c.id.in_(job_ids)))
        given = {file_id for text in texts for file_id in STORED_FILE.findall(text)}
        photos = sorted(unnamed(connection, given, but=job_ids))
    for some in batches(photos, FEW):
        with removing(store) as connection:
            free = held(connection, some)
            delete_files(sorted(unnamed(connection, free, but=job_ids, after=seen)))
            connection.execute(delete(files).where(files.c.id.in_(free)))


def remove_old(store: Store, file_ids: Sequence[str], delete_old: DeleteFiles) -> None:
    """Delete stored files because of their age, but for uploads, whose end the ledger tells.

    Args:
        delete_old: leaves those that were written again: a submit may have come and gone since they were found.
    """
    for some in batches(sorted(file_ids), FEW):
        with removing(store) as connection:
            free = held(connection, some)
            delete_old(free)
            connection.execute(delete(files).where(files.c.id.in_(free)))


def held(connection: Connection, photos: Sequence[str]) -> list[str]:
    """Lock these photos in the ledger, known there or not. Returns those that are neither uploads nor live drafts."""
    now = time.time()
    row = {"owner": "", "uploaded": False, "size": 0, "keep_s": DRAFT, "created_at": now, "expires_at": now}
    adding = UPSERT[connection.dialect.name](files).values([{"id": file_id, **row} for file_id in sorted(photos)])
    locking = adding.on_conflict_do_update(index_elements=[files.c.id], set_={"owner": files.c.owner})
    connection.execute(locking)
    live = (files.c.keep_s == DRAFT) & (files.c.expires_at > now)
    free = select(files.c.id).where(files.c.id.in_(photos), not_(files.c.uploaded), not_(live))
    return sorted(connection.scalars(free))


def sweep(store: Store, delete_files: DeleteFiles) -> int:
    """Delete some of the files whose time is over, bytes and entry, unless that is renewed meanwhile.

    A draft that a request names by now is none any more: its entry goes, and the file stays.

    Returns:
        how many files were deleted.
    """
    with store.snapshot() as connection:
        seen, ended = newest(connection), over(connection)
        drafts = {file_id for file_id, keep_s in ended.items() if keep_s == DRAFT}
        needed = drafts - unnamed(connection, drafts)
    total = 0
    for some in batches(sorted(ended), FEW):
        with removing(store) as connection:
            still = over(connection, some)
            drafts = {file_id for file_id, keep_s in still.items() if keep_s == DRAFT}
            gone = sorted(set(still) - needed - (drafts - unnamed(connection, drafts, after=seen)))
            delete_files(gone)
            connection.execute(delete(files).where(files.c.id.in_(still)))
        total += len(gone)
    return total


def over(connection: Connection, among: Collection[str] | None = None) -> dict[str, float]:
    """Files whose time is over, and how long they were to be kept; those `among` these are locked."""
    ended = select(files.c.id, files.c.keep_s).where(files.c.expires_at <= time.time())
    if among is None:
        ended = ended.limit(MOST_AT_ONCE)
    else:
        ended = ended.where(files.c.id.in_(among)).order_by(files.c.id).with_for_update()
    return {row.id: row.keep_s for row in connection.execute(ended)}


def newest(connection: Connection) -> int:
    """The last request there is: only later ones need another look, while SQLite's other writers wait.

    On PostgreSQL requests do not appear in the order of their numbers, and only submits of the same photo wait.
    """
    if connection.dialect.name != "sqlite":
        return 0
    return connection.scalar(select(func.max(jobs.c.seq))) or 0


@contextmanager
def removing(store: Store) -> Iterator[Connection]:
    """A transaction that is idle while an object store deletes, which takes it half a minute when it is silent."""
    with store.writing() as connection:
        if not store.is_sqlite:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '2min'"))
        yield connection
