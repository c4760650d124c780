"""Soundness: a damaged SQLite file is told before the server starts, and never replaced by an empty one."""

from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from server.queue.store import Store, StoreError

MOST_TOLD = 3


def refuse_damaged(database_url: str, *, served_before: bool) -> None:
    """Read the whole file once: about a second for 300 MB.

    Args:
        served_before: an empty file is a loss then, and not a beginning.

    Raises:
        StoreError: it is damaged, or was emptied; nothing is changed.
    """
    store = Store(database_url)
    try:
        if store.is_sqlite and store.sqlite_file.exists() and (told := damages(store, served_before)):
            raise StoreError(
                f"the queue at {store.sqlite_file} is damaged ({'; '.join(told)}): restore a backup of it, or recover "
                "what can be read with `sqlite3 queue.db .recover` (docs/operations.md); to begin with an empty queue, "
                "move it away together with its -wal and -shm. Nothing was changed"
            )
    finally:
        store.close()


def damages(store: Store, served_before: bool) -> list[str]:
    if store.sqlite_file.stat().st_size == 0 and (served_before or log_of(store)):
        return ["it is empty, though it was in use"]
    try:
        with store.reading() as connection:
            found = connection.execute(text(f"PRAGMA quick_check({MOST_TOLD})")).scalars().all()
    except DatabaseError as error:
        if "malformed" in str(error.orig) or "not a database" in str(error.orig):
            return [str(error.orig)]
        raise
    return [line.replace("\n", " ") for line in found if line != "ok"]


def log_of(store: Store) -> int:
    """Bytes of the write-ahead log."""
    log = store.sqlite_file.with_name(f"{store.sqlite_file.name}-wal")
    return log.stat().st_size if log.exists() else 0
