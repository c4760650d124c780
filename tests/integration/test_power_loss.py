"""A write-ahead log that was cut, at every place: what was committed before is there, and the database is sound."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from server.files import FileStore
from server.queue.audit import audit
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from tests.jobs import put


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
