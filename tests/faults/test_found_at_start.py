"""What a server finds when it starts: a database after a power failure, cut, damaged, too new, or another host's."""

import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from server.queue.residence import Residence
from tests.faults.shaken_site import ShakenSite
from tests.foreign_host import ELSEWHERE, on_another_host
from tests.server_process import veraicon
from tests.worker_process import eventually

FRAME = 4096 + 24
"""Bytes of a page and its header in SQLite's write-ahead log (sqlite.org/fileformat2.html, 4.1)."""
GONE_S = 5
"""A drain would last for half a minute: a step of the portrait is held."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, face_photo: str) -> Iterator[ShakenSite]:
    with ShakenSite(tmp_path_factory.mktemp("restarts"), face_photo) as site:
        yield site


def test_after_a_power_failure_every_acknowledged_request_is_there(site, scene):
    """row 20, row 40: all that SQLite did not sync is dropped; whoever lost an answer sends again and has one request.

    This proves that each answer to a submit, and each COMPLETED that a client saw, follows a sync that holds its rows.
    It takes for granted that what was synced survives, and looks at the database only: pictures are synced one by one.
    """
    done = [site.submit(seed=seed) for seed in range(3)]
    results = [site.finish(request).body for request in done]
    running = site.run(scene, step=2)
    waiting = [site.submit(seed=seed, headers={"idempotency_key": f"power-{seed}"}) for seed in range(4)]
    with site.alone():
        eventually(site.server.unsynced)  # heartbeats need no sync
        assert site.server.cut_power(), "this test would prove nothing"
    found = site.contradictions(quiet=False)
    scene.release()
    site.restart()
    again = [site.submit(seed=seed, headers={"idempotency_key": f"power-{seed}"}) for seed in range(4)]

    assert found == ""
    assert [site.anna.result(request).body for request in done] == results
    assert [each["request_id"] for each in again] == [each["request_id"] for each in waiting]
    assert {site.finish(request).status for request in (running, *waiting)} == {200}


def test_a_truncated_log_loses_nothing_that_was_before_the_cut(site, scene):
    """row 21: cut amid a page, as if fsync had lied, it opens; what was committed before is done, no half is there."""
    done = site.submit()
    result = site.finish(done)
    photo = site.upload_photo()
    running = site.run(scene, step=2)
    log = site.database.with_name("queue.db-wal")
    with closing(sqlite3.connect(site.database, isolation_level=None)) as database:
        eventually(lambda: database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
    kept = [site.submit(reference_images=[{"image_url": photo}], seed=seed) for seed in range(3)]
    cut = log.stat().st_size + FRAME // 2
    lost = [site.submit(reference_images=[{"image_url": photo}], seed=seed) for seed in range(3)]
    with site.alone():
        site.server.kill()
        assert cut < log.stat().st_size
        with log.open("r+b") as file:
            file.truncate(cut)
    scene.release()
    site.restart()

    assert site.anna.result(done).body == result.body
    assert {site.finish(request).status for request in (running, *kept)} == {200}
    assert {site.anna.status(request).status for request in lost} == {404}


def test_a_database_that_is_damaged_or_too_new_is_refused_and_left_as_it_is(site):
    """row 22, row 28: one sentence that points to the backup, or names the version; the backup then serves."""
    done = site.submit()
    result = site.finish(done)
    with site.alone() as file:
        with closing(sqlite3.connect(file)) as database:
            [(root, page)] = database.execute(
                "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = 'jobs'"
            )
        site.server.stop()
        backup = file.read_bytes()
        assert len(backup) > root * page
        file.write_bytes(backup[: (root - 1) * page] + b"\xa5" * page + backup[root * page :])
        damaged = refused(site)
        file.write_bytes(backup)
        with closing(sqlite3.connect(file)) as database:
            database.execute("UPDATE alembic_version SET version_num = '9999'")
            database.commit()
        newer = refused(site)
        file.write_bytes(backup)
    site.restart()

    assert "restore a backup" in damaged
    assert "was written by another version" in newer
    assert site.anna.result(done).body == result.body


def refused(site: ShakenSite) -> str:
    """What `veraicon serve` says when it refuses to start. Its database is as it was before."""
    before = site.database.read_bytes()
    done = veraicon(site.server.data_dir, "serve", **site.settings)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert site.database.read_bytes() == before
    return re.sub(r"\s+", " ", done.stderr)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_second_host_is_refused_while_the_first_one_serves(site, scene, command):
    """row 27: by name, saying what to do; the portrait that the first one makes is done all the same."""
    request = site.run(scene, step=2)
    done = on_another_host(site.server.data_dir, command, **site.settings)
    scene.release()

    assert done.returncode == 1, f"{done.stderr}\nThis test needs namespaces: `unshare --map-root-user --mount --uts`"
    assert f"is being served by another host, {socket.gethostname()}" in done.stderr
    assert "PostgreSQL" in done.stderr
    assert "Traceback" not in done.stderr
    assert site.finish(request).status == 200
    assert site.job(request).attempt == 1


def test_a_host_whose_queue_was_taken_over_is_gone_at_once_and_may_come_back(site, scene):
    """row 27: it slept, as a suspended virtual machine does, while another began to serve; that one leaves again."""
    request = site.run(scene, step=2)
    family, home = site.server.family(), Residence(site.settings["database_url"])
    taken = home.file.read_bytes().replace(home._boot.encode(), ELSEWHERE.encode())

    def stopped() -> bool:
        home.file.write_bytes(taken)
        return site.server.process.poll() is not None

    eventually(stopped)
    _, left = psutil.wait_procs(family, timeout=GONE_S)
    scene.release()
    site.restart()

    assert "another host serves this queue now" in site.server.log
    assert left == [], "whoever drains writes into a file that is another host's"
    assert site.finish(request).status == 200
    assert scene.steps == [0, 1, 2, 0, 1, 2, 3, 4]
