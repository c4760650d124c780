"""Power failures: what was acknowledged is there again, and the database is sound."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from server.files import FileStore
from server.queue.audit import audit
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from tests.conftest import PUBLISHED
from tests.jobs import put
from tests.shimmed_server import ShimmedServer
from tests.wire_gate import Gate
from tests.worker_process import eventually

SETTINGS = {"catalog": PUBLISHED, "lease_s": 3, "heartbeat_s": 0.5}


def test_after_a_power_failure_every_acknowledged_request_is_there(tmp_path, pulid_input):
    """row 20: all that SQLite did not sync is dropped, though the page cache had it; then the server starts again.

    This proves that each answer to a submit, and each COMPLETED that a client saw, follows a sync that holds its rows.
    It takes for granted that what was synced survives, and looks at the database only: pictures are synced one by one.
    """
    server = ShimmedServer(tmp_path / "data", **SETTINGS)
    gate_folder, held = tmp_path / "gate", []
    try:
        with server:
            wire, gate = server.wire, Gate(server.wire, gate_folder)
            done = [wire.submit("fal-ai/pulid", pulid_input | {"seed": seed}) for seed in range(4)]
            results = [wire.finish(request).body for request in done]
            held.append(gate.run())
            held += [wire.submit("fal-ai/pulid", pulid_input | {"seed": seed}) for seed in range(8)]
            wire.cancel(held.pop())
            eventually(server.unsynced)  # heartbeats need no sync
            assert server.cut_power(), "this test would prove nothing"
            assert_sound(server.data_dir)
        gate.open()
        with server:
            assert [server.wire.result(request).body for request in done] == [
                result.replace(wire.address.encode(), server.wire.address.encode()) for result in results
            ]
            assert {server.wire.finish(request, 60).status for request in held} == {200}
    finally:
        server.kill()
    assert_sound(server.data_dir, {request["request_id"] for request in done + held})


def assert_sound(folder, acknowledged=frozenset()):
    queue = Queue(f"sqlite:///{folder / 'queue.db'}", lease_s=3, max_attempts=3)
    assert audit(queue, FileStore(f"file://{folder / 'files'}"), quiet=False) == []
    assert acknowledged <= {entry.id for entry in queue.register()}
    queue.close()


@pytest.fixture
def crashed(tmp_path):
    """A data folder as a kill leaves it: a log of twelve durable submits, not one of them in the database itself."""
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    create_tables(url)
    with closing(sqlite3.connect(tmp_path / "queue.db")) as keeper:
        keeper.execute("SELECT 1 FROM jobs").fetchall()  # while it is open, nobody else's end cleans up the log
        queue, log = Queue(url, lease_s=3, max_attempts=3), tmp_path / "queue.db-wal"
        with closing(sqlite3.connect(tmp_path / "queue.db")) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ends = {put(queue).id: log.stat().st_size for _ in range(12)}
        queue.close()
        (tmp_path / "copy").mkdir()
        for name in ("queue.db", "queue.db-wal"):
            shutil.copyfile(tmp_path / name, tmp_path / "copy" / name)
    return tmp_path / "copy", ends


def test_a_truncated_log_loses_nothing_that_was_before_the_cut(crashed, tmp_path):
    """row 21: cut at any place, it opens, is consistent, and holds exactly the submits whose commits were whole."""
    folder, ends = crashed
    size = max(ends.values())
    cuts = [0, 31, 32, 100, size - 1, size, *ends.values(), *(end - 1 for end in ends.values()), *range(0, size, 20011)]
    kept = set()
    for cut in sorted(set(cuts)):
        here = tmp_path / f"cut-{cut}"
        shutil.copytree(folder, here)
        with (here / "queue.db-wal").open("r+b") as log:
            log.truncate(cut)
        queue = Queue(f"sqlite:///{here / 'queue.db'}", lease_s=3, max_attempts=3)
        found = [entry.id for entry in queue.register()][::-1]
        assert found == [job_id for job_id, end in ends.items() if end <= cut], cut
        assert audit(queue, FileStore(f"file://{here / 'files'}")) == []
        put(queue)
        queue.close()
        kept.add(len(found))
    assert kept == set(range(13))
