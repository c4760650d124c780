"""Writability: why the database takes no writes at the moment, as far as that can be told without writing."""

import os

from sqlalchemy import text

from server.queue.store import Store


class Writability:
    """Asked by the readiness probe: takes no lock, and waits for none."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def refusal(self) -> str | None:
        """In words for an operator; None: nothing speaks against it. Raises SQLAlchemyError."""
        if not self._store.is_sqlite:
            return self._refusal_of_postgresql()
        file = self._store.sqlite_file
        if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK):
            return None
        return f"{file} cannot be written: give the server's user the right to, or mount its disk for writing"

    def _refusal_of_postgresql(self) -> str | None:
        with self._store.reading() as connection:
            if connection.scalar(text("SHOW transaction_read_only")) == "off":
                return None
        return "PostgreSQL is read-only: point VERAICON_DATABASE_URL to the primary server, or end its read-only mode"
