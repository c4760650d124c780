"""The ledger of files: whose a file is, how large, who may read it and until when. The bytes are in the file store."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from server.errors import RequestError
from server.queue import removal
from server.queue.drafts import UPSERT
from server.queue.store import Store
from server.queue.tables import files

UNFINISHED_S = 7200.0
"""How long an upload may stay unfinished: twice as long as its ticket is valid."""
WRITTEN_WITHIN_S = 30.0
"""How long whoever completes an upload may take to write its bytes; then, if they are not there, it is gone."""
MEGABYTE = 1024 * 1024

Claim = Literal["yours", "taken", "unknown"]


class QuotaExceeded(RequestError):
    """This key's uploads fill their share of the server."""

    http_status, error_type = 413, "upload_quota_exceeded"


@dataclass(frozen=True)
class Entry:
    """One file of the ledger.

    Args:
        size: bytes; None while the upload is unfinished.
        acl: see server.lifecycle.Lifecycle; None: for everybody who has the URL.
        expires_at: unix seconds from which on nobody may read it.
        content_type: as its client named it; None: what the id's suffix says.
    """

    owner: str
    size: int | None
    acl: dict[str, Any] | None
    expires_at: float
    content_type: str | None


class Ledger:
    """Files that were uploaded, and results whose client wants them gone early. Others end with keep_results_h."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(
        self, file_id: str, owner: str, keep_s: float, acl: dict[str, Any] | None, content_type: str | None = None
    ) -> None:
        """An upload that will come; `keep_s` counts from its completion. Durable: its URL is given away next."""
        now = time.time()
        wish = {"keep_s": keep_s, "acl": acl, "content_type": content_type}
        row = {"id": file_id, "owner": owner, "uploaded": True} | wish
        with self._store.writing_durably() as connection:
            connection.execute(insert(files).values(created_at=now, expires_at=now + UNFINISHED_S, **row))

    def add_result(self, file_id: str, owner: str, size: int, keep_s: float, acl: dict[str, Any] | None) -> None:
        """A result that is about to be written. Durable, and before its bytes: none outlives its end unnoticed."""
        now = time.time()
        row = {"id": file_id, "owner": owner, "uploaded": False, "size": size, "keep_s": keep_s, "acl": acl}
        with self._store.writing_durably() as connection:
            adding = UPSERT[connection.dialect.name](files).values(created_at=now, expires_at=now + keep_s, **row)
            # A second try after a full disk; or one that comes too late, whose file is to be swept.
            connection.execute(adding.on_conflict_do_nothing())

    def claim(self, file_id: str, size: int, most_mb: int, at: float, *, missing: bool = False) -> Claim:
        """Complete an upload, once: of several at the same time one gets "yours", and writes the bytes.

        Args:
            most_mb: what all files of its owner may weigh together; 0: no limit.
            at: now, in unix seconds; names this claim.
            missing: its bytes are not there, so that whoever claimed it long ago has died.

        Raises:
            QuotaExceeded: 413; the upload stays unfinished.
        """
        free = files.c.size.is_(None)
        if missing:
            free = or_(free, files.c.expires_at - files.c.keep_s < at - WRITTEN_WITHIN_S)
        this = (files.c.id == file_id, files.c.expires_at > at)
        counted = func.coalesce(files.c.size, files.c.received).label("counted")
        with self._store.writing_durably() as connection:
            row = connection.execute(select(files.c.owner, counted, free.label("free")).where(*this)).one_or_none()
            if row is None:
                return "unknown"
            if not row.free:
                return "taken"
            check_quota(connection, row.owner, size - row.counted, most_mb)
            mine = update(files).where(*this, free).values(size=size, expires_at=at + files.c.keep_s)
            return "yours" if connection.execute(mine).rowcount else "taken"

    def note_received(self, file_id: str, size: int) -> None:
        """What the parts of an unfinished upload weigh now: they count against its owner's share as well."""
        with self._store.writing() as connection:
            connection.execute(update(files).where(files.c.id == file_id).values(received=size))

    def reopen(self, file_id: str, at: float) -> None:
        """The bytes of an upload that was claimed `at` could not be written: its client may send them again."""
        until = time.time() + UNFINISHED_S
        claimed = (files.c.id == file_id, files.c.expires_at == at + files.c.keep_s)
        with self._store.writing() as connection:
            connection.execute(update(files).where(*claimed).values(size=None, expires_at=until))

    def check_room(self, owner: str, size: int, most_mb: int) -> None:
        """Raises QuotaExceeded when `size` bytes more would exceed the owner's share; `most_mb` 0: never."""
        with self._store.reading() as connection:
            check_quota(connection, owner, size, most_mb)

    def find(self, file_id: str) -> Entry | None:
        """None for a file that the ledger knows nothing of."""
        columns = (files.c.owner, files.c.size, files.c.acl, files.c.expires_at, files.c.content_type)
        with self._store.reading() as connection:
            row = connection.execute(select(*columns).where(files.c.id == file_id)).one_or_none()
        return Entry(*row) if row else None

    def owned(self, owner: str) -> list[str]:
        """Every file that `owner` uploaded, or is uploading."""
        with self._store.reading() as connection:
            return list(connection.scalars(select(files.c.id).where(files.c.owner == owner)))

    def sweep(self, delete_files: Callable[[Sequence[str]], None]) -> int:
        """See server.queue.removal.sweep."""
        return removal.sweep(self._store, delete_files)

    def remove_old(self, file_ids: Sequence[str], delete_old: Callable[[Sequence[str]], None]) -> None:
        """See server.queue.removal.remove_old."""
        removal.remove_old(self._store, file_ids, delete_old)

    def forget(self, file_ids: Sequence[str]) -> None:
        with self._store.writing() as connection:
            connection.execute(delete(files).where(files.c.id.in_(file_ids)))


def check_quota(connection: Connection, owner: str, size: int, most_mb: int) -> None:
    """Raises QuotaExceeded. In a writing transaction on PostgreSQL, the locks make uploads of one owner take turns."""
    if not most_mb:
        return
    alive = and_(files.c.owner == owner, files.c.uploaded, files.c.expires_at > time.time())
    sizes = select(func.coalesce(files.c.size, files.c.received).label("size")).where(alive)
    taken = sizes.order_by(files.c.id).with_for_update().subquery()
    used = connection.scalar(select(func.sum(taken.c.size))) or 0
    if used + size > most_mb * MEGABYTE:
        raise QuotaExceeded(
            f"Uploads of one key may take {most_mb} MB together (max_upload_total_mb), and {used // MEGABYTE} MB are "
            "in use: let some expire (X-Fal-Object-Lifecycle), or ask the operator for more."
        )
