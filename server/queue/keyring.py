"""Keyring: API keys: their hashes, whose they are, what they may do, and when they were last used."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import bindparam, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from server.queue.job import Key, Scope
from server.queue.store import Store
from server.queue.tables import keys

NOTE_EVERY_S = 60.0
"""A key's last use is written at most this often: a request must not cost a write."""

# Built once: each request asks.
BY_HASH = select(keys.c.id, keys.c.name, keys.c.scopes, keys.c.created_at, keys.c.used_at, keys.c.revoked_at).where(
    keys.c.key_hash == bindparam("key_hash"), keys.c.revoked_at.is_(None)
)
ALL = select(keys.c.id, keys.c.name, keys.c.scopes, keys.c.created_at, keys.c.used_at, keys.c.revoked_at).order_by(
    keys.c.name, keys.c.created_at
)


class KeyExists(Exception):
    """There is, or was, a key of this name; the message says what to do."""


class Keyring:
    """The API keys of one database; safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted: dict[str, float] = {}
        self._notes = ThreadPoolExecutor(1, "last-used")

    def close(self) -> None:
        self._notes.shutdown(cancel_futures=True)

    def add(self, key_id: str, name: str, key_hash: str, scopes: Sequence[Scope], *, another: bool = False) -> None:
        """Keep a new key of `name`.

        Args:
            another: the name may have keys already; whoever holds one of them shares all its requests.

        Raises:
            KeyExists: the name is or was in use, so that requests of its owner may still be stored.
        """
        row = {"id": key_id, "name": name, "key_hash": key_hash, "scopes": " ".join(scopes), "created_at": time.time()}
        with self._store.writing_durably() as connection:
            if not another and connection.scalar(select(exists().where(keys.c.name == name))):
                raise KeyExists(
                    f"there is, or was, a key named {name!r}, whose requests a new one could read: "
                    "choose another name, or say --another to give the same owner one more key"
                )
            try:
                connection.execute(insert(keys).values(row))
            except IntegrityError:
                raise KeyExists(f"there is a key with the id {key_id}: make a new one") from None

    def find(self, key_hash: str) -> Key | None:
        """The key, unless it is unknown or revoked. Notes that it was used, without waiting for the note's writing."""
        with self._store.reading() as connection:
            row = connection.execute(BY_HASH, {"key_hash": key_hash}).one_or_none()
        if row is None:
            return None
        now, key = time.time(), key_of(row)
        if now - max(key.used_at or 0.0, self._noted.get(key.id, 0.0)) >= NOTE_EVERY_S:
            self._noted[key.id] = now
            self._notes.submit(self._note, key.id, now)
        return key

    def _note(self, key_id: str, used_at: float) -> None:
        """Write a last use. One that is lost costs nothing: the next one comes in a minute."""
        with self._store.writing() as connection:
            connection.execute(update(keys).where(keys.c.id == key_id).values(used_at=used_at))

    def every(self) -> list[Key]:
        """Every key that was ever made, also the revoked ones, by name."""
        with self._store.reading() as connection:
            return [key_of(row) for row in connection.execute(ALL)]

    def revoke(self, name_or_id: str) -> int:
        """Make a key, or all keys of a name, worthless. Returns how many were in force."""
        named = or_(keys.c.name == name_or_id, keys.c.id == name_or_id)
        with self._store.writing_durably() as connection:
            in_force = update(keys).where(named, keys.c.revoked_at.is_(None))
            return connection.execute(in_force.values(revoked_at=time.time())).rowcount

    def any_made(self) -> bool:
        """Whether any key was ever made: revoking the last one must not open the server."""
        with self._store.reading() as connection:
            return bool(connection.scalar(select(exists().select_from(keys))))


def key_of(row: Sequence) -> Key:
    key_id, name, scopes, *times = row
    return Key(key_id, name, tuple(scopes.split()), *times)
