"""The HTTP process starts while PostgreSQL is away: it says so once, waits for it, and can be stopped meanwhile."""

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.queue.migrations import create_tables
from tests.conftest import PUBLISHED
from tests.databases import PostgreSQL, running_postgresql
from tests.server_process import ROOT, environment
from tests.wire import Wire
from tests.worker_process import eventually

WAITING = "the database does not answer: waiting for it"


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    """In a folder of its own: every run of pytest bars the others, and PostgreSQL's user, from its temporary folder."""
    with tempfile.TemporaryDirectory(prefix="veraicon-late-") as folder, running_postgresql(Path(folder)) as server:
        yield server


@contextmanager
def http_process(folder: Path, database_url: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, str]]:
    """`python -m server.http`, where it logs, and its address."""
    log, settings = folder / "log", {"catalog": PUBLISHED, "database_url": database_url}
    with socket.create_server(("127.0.0.1", 0)) as door, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.http", "--fd", str(door.fileno())],
            cwd=ROOT,
            env=environment(folder, **settings),
            pass_fds=[door.fileno()],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        with process:
            try:
                yield process, log, f"127.0.0.1:{door.getsockname()[1]}"
            finally:
                process.kill()


def test_the_http_process_waits_for_its_database(database, tmp_path):
    url = database.new_database()
    create_tables(url)
    database.crash()
    try:
        with http_process(tmp_path, url) as (leaving, log, _):
            eventually(lambda: WAITING in log.read_text())
            leaving.send_signal(signal.SIGTERM)
            assert leaving.wait(5) == -signal.SIGTERM
        with http_process(tmp_path, url) as (process, log, address):
            eventually(lambda: WAITING in log.read_text())
            database.start()
            assert Wire(address).get("/ready", host=None, timeout_s=60).status in {200, 503}
            assert process.poll() is None
            assert log.read_text().count(WAITING) == 1
            assert "Traceback" not in log.read_text()
    finally:
        database.start()
