"""Idempotency: a client that sends a submit twice, because it lost the answer, gets the same request twice."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, Text, bindparam, func, select

from server.errors import BadRequest, RequestError
from server.queue.job import Job
from server.queue.rows import JOB_COLUMNS, job_of
from server.queue.store import Store
from server.queue.tables import jobs

HEADER = "Idempotency-Key"
"""draft-ietf-httpapi-idempotency-key-header: a string in quotation marks; many clients leave these out."""
KEY = re.compile(r'"?([\x21\x23-\x7e]{1,255})"?')


class IdempotencyKeyReused(RequestError):
    """The key named another request before."""

    http_status, error_type = 422, "idempotency_key_reused"


@dataclass(frozen=True)
class Idempotency:
    """What a submit is known by again. `key`: its client's own name for it; `body_hash`: of what it asked for."""

    key: str
    body_hash: str

    @classmethod
    def of(cls, headers: list[str], endpoint: str, body: dict[str, Any]) -> Self | None:
        """From the header's values; None without any.

        Args:
            endpoint: the id, the same for every alias.
            body: as the client sent it.

        Raises:
            BadRequest: more than one value, or one that is not 1 to 255 visible ASCII characters.
        """
        if not headers:
            return None
        match = KEY.fullmatch(headers[0].strip())
        if len(headers) > 1 or match is None:
            raise BadRequest(f"{HEADER} must be one value of 1 to 255 visible ASCII characters, such as a UUID.")
        asked = json.dumps([endpoint, body], sort_keys=True, separators=(",", ":"))
        return cls(match[1], hashlib.sha256(asked.encode()).hexdigest())

    @property
    def columns(self) -> dict[str, str]:
        return {"idempotency_key": self.key, "body_hash": self.body_hash}


def earlier(connection: Connection, owner: str, wanted: Idempotency) -> Job | None:
    """The stored request that this owner submitted under this key, whatever became of it.

    Raises:
        IdempotencyKeyReused: it asked for something else.
    """
    mine = (jobs.c.owner == owner, jobs.c.idempotency_key == wanted.key)
    row = connection.execute(select(jobs.c.id, jobs.c.body_hash).where(*mine)).one_or_none()
    if row is None:
        return None
    if row.body_hash != wanted.body_hash:
        raise IdempotencyKeyReused(
            f"{HEADER} {wanted.key!r} belongs to request {row.id}, which asked for something else (another endpoint or "
            "body). Nothing was queued; send a new key with a new request."
        )
    stored = connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == row.id)).one_or_none()
    return job_of(stored) if stored else None


LOCK = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("owner", type_=Text()), 0)))


def take_turns(connection: Connection, owner: str) -> None:
    """Until the transaction ends, nobody else submits as this owner; SQLite's writers take turns anyway.

    So one submit sees what the one before it stored: for its idempotency key, its turn and the limits of its owner.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(LOCK, {"owner": owner})


class Repeats:
    """Looks for earlier submits before anything of a later one is stored."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, owner: str, wanted: Idempotency) -> Job | None:
        """See `earlier`."""
        with self._store.reading() as connection:
            return earlier(connection, owner, wanted)
