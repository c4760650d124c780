"""A server that finds a damaged, foreign or old database: it says so and changes nothing, or brings it up to date."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from alembic import command
from alembic.config import Config

from server.files import FileStore
from server.queue import migrations
from server.queue.audit import audit
from server.queue.queue import Queue
from server.queue.store import Store
from tests.conftest import PUBLISHED, as_data_uri
from tests.jobs import put
from tests.server_process import ROOT, ServerProcess, veraicon
from tests.worker_process import Site

PAGE = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A database of some hundred requests, closed in order."""
    site = Site(tmp_path_factory.mktemp("sound"))
    for _ in range(300):
        put(site.queue, webhook="http://w/", finished=(422, {"detail": ["x" * 500]}, "missing"))
    site.queue.close()
    return site.folder / "queue.db"


def spoiled(sound, folder, how):
    file = folder / "queue.db"
    shutil.copyfile(sound, file)
    content = bytearray(file.read_bytes())
    match how:
        case "a table's page":
            content[PAGE * 20 : PAGE * 21] = b"\xa5" * PAGE
        case "the end":
            del content[len(content) // 2 // PAGE * PAGE :]
        case "everything":
            content.clear()
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("how", ["a table's page", "the end", "everything"])
def test_a_damaged_database_is_refused_and_left_as_it_is(sound, tmp_path, how):
    """row 22: one sentence that points to the backup; no new database takes its place."""
    file = spoiled(sound, tmp_path, how)
    (tmp_path / "queue.host").touch()  # it was served from here before
    before = file.read_bytes()
    done = veraicon(tmp_path, "api", catalog=PUBLISHED, log_level="ERROR")
    assert done.returncode == 1
    assert "restore a backup" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == before


def test_workers_refuse_it_too(sound, tmp_path):
    spoiled(sound, tmp_path, "a table's page")
    done = veraicon(tmp_path, "worker", catalog=PUBLISHED)
    assert (done.returncode, "is damaged" in done.stderr) == (1, True), done.stderr


def migrated_to(version, url):
    """Tables as the program of that time made them."""
    store, config = Store(url), Config()
    config.set_main_option("script_location", str(migrations.__path__[0]))
    config.set_main_option("path_separator", "os")
    with store.writing_durably() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    store.close()


def test_an_older_database_is_brought_up_to_date_with_all_it_holds(tmp_path):
    """row 28: a portrait that waited under the last release is made under this one, once."""
    request_id, url = "7d1f0f9e-6a52-4a57-9d0a-0b8b1a7a5f11", f"sqlite:///{tmp_path / 'queue.db'}"
    migrated_to("0003", url)
    photo = as_data_uri((ROOT / "pipelines" / "selftest.jpg").read_bytes(), "image/jpeg")
    body = {"prompt": "x", "reference_images": [{"image_url": photo}], "image_size": {"width": 256, "height": 256}}
    with closing(sqlite3.connect(tmp_path / "queue.db")) as database:
        database.execute(
            "INSERT INTO jobs (id, endpoint, owner, state, input, base_url, priority, created_at) VALUES "
            "(?, 'fal-ai/pulid', 'local', 'IN_QUEUE', ?, 'http://host', 0, 1)",
            (request_id, json.dumps(body)),
        )
        database.commit()
    with ServerProcess(tmp_path) as server:
        request = {"status_url": f"{server.url}/queue/fal-ai/pulid/requests/{request_id}/status",
                   "response_url": f"{server.url}/queue/fal-ai/pulid/requests/{request_id}"}  # fmt: skip
        assert server.wire.finish(request).status == 200
    with closing(Queue(url, lease_s=60, max_attempts=3)) as queue:
        assert queue.get(request_id).attempt == 1
        assert audit(queue, FileStore(f"file://{tmp_path / 'files'}")) == []


def test_a_newer_database_is_refused_and_left_as_it_is(sound, tmp_path):
    """row 28: an older program does not guess what a newer one meant."""
    file = tmp_path / "queue.db"
    shutil.copyfile(sound, file)
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    before = file.read_bytes()
    done = veraicon(tmp_path, "api", catalog=PUBLISHED)
    assert done.returncode == 1
    assert "was written by another version" in done.stderr
    assert file.read_bytes() == before
