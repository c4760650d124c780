"""A real server whose database is locked, read-only or on a full disk, whose clock jumps, whose sockets are deleted."""

import shutil
import sqlite3
import time
from contextlib import closing

import pytest

from server.files import FileStore
from server.queue.audit import audit
from server.queue.queue import Queue
from tests.conftest import PUBLISHED
from tests.room_server import RoomServer
from tests.shimmed_server import ShimmedServer
from tests.wire_checks import assert_is_request_error
from tests.wire_gate import Gate
from tests.worker_process import eventually

LEASES = {"catalog": PUBLISHED, "lease_s": 6, "heartbeat_s": 1}
HOUR_S = 3600


@pytest.fixture(scope="module")
def shaken(tmp_path_factory):
    with ShimmedServer(tmp_path_factory.mktemp("shaken") / "data", **LEASES) as server:
        yield server


@pytest.fixture
def held(shaken, tmp_path):
    gate = Gate(shaken.wire, tmp_path / "gate")
    yield gate
    gate.close()
    assert_consistent(shaken.data_dir, quiet=False)


def assert_consistent(folder, quiet=True):
    queue = Queue(f"sqlite:///{folder / 'queue.db'}", lease_s=3, max_attempts=3)
    assert audit(queue, FileStore(f"file://{folder / 'files'}"), quiet=quiet) == []
    queue.close()


def assert_takes_nothing(wire, body):
    refused = wire.post("/fal-ai/pulid", body)
    assert_is_request_error(refused, 503, "service_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["x-fal-needs-retry"] == "true"


def stored(folder):
    with closing(sqlite3.connect(folder / "queue.db")) as database:
        return {row[0] for row in database.execute("SELECT id FROM jobs")}


def test_a_read_only_database_acknowledges_nothing_and_serves_what_it_has(shaken, held, pulid_input):
    """row 19: the disk went read-only below the running server, and comes back."""
    done = shaken.wire.submit("fal-ai/pulid", pulid_input)
    result = shaken.wire.finish(done)
    before = stored(shaken.data_dir)
    shaken.turn_readonly(True)
    try:
        assert_takes_nothing(shaken.wire, pulid_input)
        assert shaken.wire.result(done).body == result.body
    finally:
        shaken.turn_readonly(False)
    assert stored(shaken.data_dir) == before
    assert shaken.wire.finish(shaken.wire.submit("fal-ai/pulid", pulid_input)).status == 200


def test_a_locked_database_acknowledges_nothing_and_serves_what_it_has(shaken, held, pulid_input):
    """row 19: somebody else holds the write lock for longer than a submit waits for it (10 s)."""
    done = shaken.wire.submit("fal-ai/pulid", pulid_input)
    result = shaken.wire.finish(done)
    before = stored(shaken.data_dir)
    with closing(sqlite3.connect(shaken.data_dir / "queue.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        assert shaken.wire.result(done).body == result.body
        assert_takes_nothing(shaken.wire, pulid_input)
        database.execute("ROLLBACK")
    assert stored(shaken.data_dir) == before
    assert shaken.wire.finish(shaken.wire.submit("fal-ai/pulid", pulid_input)).status == 200


def test_the_wall_clock_may_jump(shaken, held):
    """row 26: an hour ahead and two back; what runs goes on in its lease, what waits keeps its start timeout."""
    running = held.run()
    ahead, patient = held.submit(), held.submit(x_fal_request_timeout="600")
    for wrong_by_s in (HOUR_S, -HOUR_S):
        shaken.set_clock(wrong_by_s)
        time.sleep(2.5)  # several looks of the caretaker, and a heartbeat or two
        hasty = held.submit(x_fal_request_timeout="0.2")
        assert_is_request_error(shaken.wire.finish(hasty), 504, "request_timeout")
        assert shaken.wire.status(patient).json["status"] == "IN_QUEUE"
        assert shaken.wire.status(running).json["status"] == "IN_PROGRESS"
    shaken.set_clock(0)
    held.open()
    assert {shaken.wire.finish(request).status for request in (running, ahead, patient)} == {200}
    assert len(held.trace("started")) == 3, "each ran once"


def test_deleted_sockets_cost_a_second_and_are_made_again(shaken, held):
    """row 25: wake-ups are hints, the safety poll finds the job."""
    folder = shaken.data_dir / "queue.wakeup"
    sockets = {path.name for path in folder.iterdir()}
    assert {name.partition(".")[0] for name in sockets} >= {"work", "news"}
    for name in sockets:
        (folder / name).unlink(missing_ok=True)
    held.submit()
    began = time.monotonic()
    held.wait_for_trace("started", 1)
    waited_s = time.monotonic() - began
    print(f"without any socket the job began after {waited_s:.2f} s")
    assert waited_s < 5, "the safety poll looks every second; the rest is a busy machine"
    eventually(lambda: {path.name for path in folder.iterdir()} >= sockets)


def test_a_full_disk_acknowledges_nothing_and_recovers(tmp_path, pulid_input):
    """row 18: neither the photo nor the row finds room; nothing of a refused request stays."""
    with RoomServer(tmp_path, "api", size_mb=12, catalog=PUBLISHED) as server:
        acknowledged = {server.wire.submit("fal-ai/pulid", pulid_input)["request_id"]}
        filler = server.fill_disk()
        for body in (pulid_input, {"prompt": "an input that is refused is stored as well"}):
            assert_takes_nothing(server.wire, body)
        assert [reason for reason in server.wire.get("/ready", host=None).json["reasons"] if "disk" in reason]
        filler.unlink()
        acknowledged |= {server.wire.submit("fal-ai/pulid", pulid_input)["request_id"]}
        shutil.copytree(server.data_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("queue.wakeup"))
    assert stored(tmp_path / "copy") == acknowledged
    assert_consistent(tmp_path / "copy")
