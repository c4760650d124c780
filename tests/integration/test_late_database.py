"""PostgreSQL comes later than the HTTP process, or anew: that is waited for, and nobody meets an old connection."""

import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.queue.migrations import create_tables
from server.queue.queue import Queue
from tests.conftest import PUBLISHED
from tests.databases import PostgreSQL, running_postgresql
from tests.jobs import put
from tests.server_process import ROOT, environment
from tests.wire import Wire
from tests.worker_process import eventually

THREADS = 4
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


def test_after_a_restart_of_the_database_every_first_question_is_answered(database):
    """row 23: the connections that several threads left in the pool are all dead, and nobody is told of it."""
    url = database.new_database()
    create_tables(url)
    queue = Queue(url, lease_s=30, max_attempts=3)
    try:
        together = threading.Barrier(THREADS)
        at_once(lambda: hold_connection(queue, together))
        database.crash()
        database.start()
        at_once(lambda: put(queue))
    finally:
        queue.close()


def hold_connection(queue: Queue, together: threading.Barrier) -> None:
    with queue._store.reading():
        together.wait(timeout=30)


def at_once(action: Callable[[], object]) -> None:
    """In several threads; raises what one of them raises."""
    with ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(action) for _ in range(THREADS)]:
            done.result()
