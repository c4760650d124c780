"""The vault: secrets that every host of one server shares. Whoever can read the queue's database can read them."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, insert, or_, select, text, update

from server.queue.store import Store
from server.queue.tables import vault

WEBHOOKS, TICKETS = "webhooks", "tickets"


@dataclass(frozen=True)
class SigningKey:
    """One key of the webhooks. `signs_from`: unix seconds; the newest one whose time has come signs."""

    pem: str
    signs_from: float


class Vault:
    """Makes what is missing on first use, once for all hosts."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ticket_secret(self) -> bytes:
        """What upload tickets are signed with."""
        query = select(vault.c.value).where(vault.c.purpose == TICKETS)
        with self._store.reading() as connection:
            found = connection.scalar(query)
        if found is None:
            with self._store.writing_durably() as connection:
                self._take_turns(connection)
                found = connection.scalar(query) or _add(connection, TICKETS, secrets.token_hex(32), time.time())
        return found.encode()

    def webhook_keys(self, make: Callable[[], str]) -> list[SigningKey]:
        """The keys that receivers may need now, oldest first. `make`: a new private key in PEM, if there is none."""
        if found := self._published():
            return found
        with self._store.writing_durably() as connection:
            self._take_turns(connection)
            if connection.scalar(select(vault.c.id).where(vault.c.purpose == WEBHOOKS).limit(1)) is None:
                _add(connection, WEBHOOKS, make(), time.time())
        return self._published()

    def rotate_webhook_key(self, pem: str, announce_s: float, overlap_s: float) -> None:
        """Publish a new key at once; it signs after `announce_s`, and `overlap_s` later the old ones are withdrawn."""
        signs_from = time.time() + announce_s
        until = signs_from + overlap_s
        longer = or_(vault.c.published_until.is_(None), vault.c.published_until > until)
        old = update(vault).where(vault.c.purpose == WEBHOOKS, longer)
        with self._store.writing_durably() as connection:
            self._take_turns(connection)
            connection.execute(old.values(published_until=until))
            _add(connection, WEBHOOKS, pem, signs_from)

    def _published(self) -> list[SigningKey]:
        alive = or_(vault.c.published_until.is_(None), vault.c.published_until > time.time())
        query = select(vault.c.value, vault.c.signs_from).where(vault.c.purpose == WEBHOOKS, alive)
        with self._store.reading() as connection:
            return [SigningKey(*row) for row in connection.execute(query.order_by(vault.c.id))]

    def _take_turns(self, connection: Connection) -> None:
        """SQLite's writers do so anyway."""
        if not self._store.is_sqlite:
            connection.execute(text("LOCK TABLE vault IN EXCLUSIVE MODE"))


def _add(connection: Connection, purpose: str, value: str, signs_from: float) -> str:
    connection.execute(insert(vault).values(purpose=purpose, value=value, signs_from=signs_from))
    return value
