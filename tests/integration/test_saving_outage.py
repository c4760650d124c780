"""The database dies between a picture's file and its row: in the end rows and files agree."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.endpoint import Picture
from server.files import FileStore
from server.queue.audit import audit
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from server.settings import Settings
from server.worker.assignment import Assignment
from server.worker.stages import Stages
from tests.databases import PostgreSQL, running_postgresql
from tests.jobs import put
from tests.pipelines.blue_square import BLUE_SQUARE


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    """In a folder of its own: every run of pytest bars the others, and PostgreSQL's user, from its temporary folder."""
    with tempfile.TemporaryDirectory(prefix="veraicon-outage-") as folder, running_postgresql(Path(folder)) as server:
        yield server


@pytest.mark.parametrize("given_away", [True, False])
def test_a_picture_stays_exactly_if_its_row_was_stored_in_the_end(database, tmp_path, given_away):
    """The worker cannot tell at first: its connection broke while it stored the result."""
    url = database.new_database()
    create_tables(url)
    queue, files = Queue(url, lease_s=30, max_attempts=3), FileStore(f"file://{tmp_path}")
    put(queue, BLUE_SQUARE.id)
    [job] = queue.claim("w1", [BLUE_SQUARE.id])

    def outage() -> float:
        """A picture is measured when its file is there and its row is not."""
        if given_away:
            queue.rescue(job.worker)
        database.crash()
        threading.Thread(target=database.start).start()
        return 0.5

    picture = Picture(np.zeros((8, 8, 3), np.uint8), 7, metrics={"blueness": outage})
    Stages(Settings(data_dir=tmp_path), queue, files, {}).save(Assignment(job, BLUE_SQUARE), [picture])

    stored = queue.get(job.id)
    assert stored.state == ("IN_QUEUE" if given_away else "COMPLETED")
    assert len(list(files.listing())) == (0 if given_away else 1)
    assert audit(queue, files) == []
    queue.close()
