"""A server whose database is read-only or locked, whose wake-up sockets are deleted, whose clock jumps."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults.shaken_site import ShakenSite
from tests.wire_checks import assert_is_request_error
from tests.worker_process import eventually

HOUR_S = 3600
LOCKED_S = 30


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, face_photo: str) -> Iterator[ShakenSite]:
    with ShakenSite(tmp_path_factory.mktemp("shaken"), face_photo) as site:
        yield site


def test_a_read_only_database_acknowledges_nothing_and_serves_what_it_has(site, scene):
    """row 19: the disk turns read-only below the running server, amid a portrait, and comes back."""
    done = site.submit()
    result = site.finish(done)
    running = site.run(scene, step=2)
    site.server.turn_readonly(True)
    try:
        site.assert_takes_nothing()
        assert site.anna.result(done).body == result.body
    finally:
        site.server.turn_readonly(False)
    scene.release()

    assert site.finish(running).status == 200
    assert site.finish(site.submit()).status == 200


def test_a_database_locked_for_half_a_minute_acknowledges_nothing_and_loses_nothing(site, scene):
    """row 19: somebody holds the write lock far longer than a submit waits for it, and than a lease lasts."""
    done = site.submit()
    result = site.finish(done)
    running = site.run(scene, step=2)
    with closing(sqlite3.connect(site.database, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        scene.release()
        while time.monotonic() - began < LOCKED_S:
            site.assert_takes_nothing()
            assert site.anna.result(done).body == result.body
            assert site.anna.status(running).json["status"] == "IN_PROGRESS"
        database.execute("ROLLBACK")

    assert site.finish(running).status == 200
    assert site.finish(site.submit()).status == 200


def test_deleted_sockets_cost_a_second_and_are_made_again(site, scene):
    """row 25: wake-ups are hints, the safety poll finds the request."""
    folder = site.server.data_dir / "queue.wakeup"
    sockets = {path.name for path in folder.iterdir()}
    assert {name.partition(".")[0] for name in sockets} >= {"work", "news"}
    for name in sockets:
        (folder / name).unlink(missing_ok=True)
    request = site.submit(scene)
    began = time.monotonic()
    scene.wait_for(step=0)
    waited_s = time.monotonic() - began
    print(f"without any socket the request began after {waited_s:.2f} s")

    assert waited_s < 5, "the safety poll looks every second; the rest is a busy machine"
    assert site.finish(request).status == 200
    eventually(lambda: {path.name for path in folder.iterdir()} >= sockets)


def test_the_wall_clock_may_jump(site, scene, other_scene):
    """row 26: an hour ahead and two back; what runs goes on in its lease, what waits keeps its start timeout."""
    before = len(site.stored())
    site.fill(scene)
    patient = site.submit(other_scene, headers={"x_fal_request_timeout": "600"})
    for wrong_by_s in (HOUR_S, -HOUR_S):
        site.server.set_clock(wrong_by_s)
        time.sleep(2.5)  # several looks of the caretaker, and a heartbeat or two
        hasty = site.submit(headers={"x_fal_request_timeout": "0.2"})
        assert_is_request_error(site.finish(hasty), 504, "request_timeout")
        assert site.anna.status(patient).json["status"] == "IN_QUEUE"
    site.server.set_clock(0)
    scene.release()
    site.check()
    since = {job.id: (job.http_status, job.attempt) for job in site.stored()[before:]}

    assert since[patient["request_id"]] == (200, 1)
    assert set(since.values()) == {(200, 1), (504, 0)}
    assert len(other_scene.runs) == 1
