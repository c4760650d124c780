"""API keys: their hashes and whose they are."""

import time

from sqlalchemy import exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from server.queue.job import Key
from server.queue.store import Store
from server.queue.tables import keys


class KeyExists(Exception):
    """There is, or was, a key of this name: choose another name."""


def add(store: Store, name: str, key_hash: str) -> None:
    try:
        with store.writing_durably() as connection:
            connection.execute(insert(keys).values(name=name, key_hash=key_hash, created_at=time.time()))
    except IntegrityError:
        raise KeyExists(f"there is, or was, a key named {name!r}: choose another name") from None


def find(store: Store, key_hash: str) -> str | None:
    with store.reading() as connection:
        return connection.scalar(select(keys.c.name).where(keys.c.key_hash == key_hash, keys.c.revoked_at.is_(None)))


def any_made(store: Store) -> bool:
    with store.reading() as connection:
        return bool(connection.scalar(select(exists().select_from(keys))))


def every(store: Store) -> list[Key]:
    with store.reading() as connection:
        rows = connection.execute(select(keys.c.name, keys.c.created_at, keys.c.revoked_at).order_by(keys.c.name))
        return [Key(*row) for row in rows]


def revoke(store: Store, name: str) -> bool:
    in_force = update(keys).where(keys.c.name == name, keys.c.revoked_at.is_(None))
    with store.writing_durably() as connection:
        return connection.execute(in_force.values(revoked_at=time.time())).rowcount == 1
