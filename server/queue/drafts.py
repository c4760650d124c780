"""Drafts: files that are written before the row that names them. When that row never comes, they are swept.

A worker's pictures are noted in their job's row; the photos of a submit, which has no row yet, in the ledger of files.
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from server.errors import Unavailable
from server.queue.job import Job
from server.queue.named import STORED_FILE
from server.queue.store import Store
from server.queue.tables import files, jobs

ACCEPTED_WITHIN_S = 600.0
"""How long a submit may take from its photos to its row, before they count as left behind."""
DRAFT = 0.0
"""`keep_s` of a file in the ledger that is there for no one yet."""
UPSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Drafts:
    """What a process is about to write. A note survives kill -9; it need not survive a power failure, as files do."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, job: Job, file_ids: Sequence[str]) -> bool:
        """The worker will write these files for `job`. False: the job was given to someone else, write nothing."""
        mine = (jobs.c.id == job.id, jobs.c.state == "IN_PROGRESS", jobs.c.worker == job.worker)
        noting = update(jobs).where(*mine, jobs.c.attempt == job.attempt).values(drafts=list(file_ids))
        with self._store.writing() as connection:
            return connection.execute(noting).rowcount == 1

    def expect(self, owner: str, photos: Mapping[str, bytes]) -> None:
        """These photos will be written for a submit of `owner`; see `accept`."""
        with self._store.writing() as connection:
            enter(connection, owner, {file_id: len(data) for file_id, data in photos.items()}, ACCEPTED_WITHIN_S)


def accept(connection: Connection, photos: Collection[str]) -> None:
    """The row that names these photos is stored with this transaction; other submits may still expect them.

    Raises:
        Unavailable: this took so long that they were swept.
    """
    if not photos:
        return
    expected = (files.c.id.in_(photos), files.c.keep_s == DRAFT)
    found = connection.scalars(select(files.c.id).where(*expected).order_by(files.c.id).with_for_update()).all()
    if len(found) < len(set(photos)):
        raise Unavailable("The pictures of this request could not be kept until it was queued: send it again.")
    connection.execute(update(files).where(*expected).values(received=files.c.received - 1))
    connection.execute(delete(files).where(*expected, files.c.received < 1))


def abandon(connection: Connection, where: ColumnElement[bool], body: dict[str, Any] | None = None) -> None:
    """The job that `where` names is done or given away: whatever its worker wrote beside `body` goes at once."""
    row = connection.execute(select(jobs.c.owner, jobs.c.drafts).where(where, jobs.c.drafts.is_not(None))).one_or_none()
    if row is not None:
        left = set(row.drafts).difference(STORED_FILE.findall(json.dumps(body)))
        enter(connection, row.owner, dict.fromkeys(left, 0), 0)


def enter(connection: Connection, owner: str, sizes: Mapping[str, int], for_s: float) -> None:
    """Let the ledger know these files as drafts, to be swept in `for_s` seconds."""
    if not sizes:
        return
    now = time.time()
    same = {"owner": owner, "uploaded": False, "keep_s": DRAFT, "created_at": now, "expires_at": now + for_s}
    same["received"] = 1  # of a draft: the submits that expect it; of one that is over, none does any more
    # In one order: two submits with the same photos must not wait for each other.
    rows = [{"id": file_id, "size": size, **same} for file_id, size in sorted(sizes.items())]
    adding = UPSERT[connection.dialect.name](files).values(rows)
    expecting = case((files.c.expires_at > now, files.c.received + 1), else_=1)
    ends = {"keep_s": DRAFT, "received": expecting, "expires_at": now + for_s}
    connection.execute(adding.on_conflict_do_update(index_elements=[files.c.id], set_=ends))
