"""Backups as docs/operations.md tells to make them, of servers at work; and what an older version has left."""

import json
import os
import re
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from server.files import FileStore
from server.queue import migrations
from server.queue.audit import audit
from server.queue.queue import Queue
from server.queue.store import Store
from tests.app import running_app
from tests.conftest import PUBLISHED
from tests.pipelines.catalog import BLUE_SQUARE
from tests.server_process import ROOT, ServerProcess
from tests.wire import Wire

PULID = "fal-ai/pulid"
DONE, WAITING = "6a1e0c36-7d2c-4f58-9a55-3c1f0a9b7e01", "6a1e0c36-7d2c-4f58-9a55-3c1f0a9b7e02"
OLD_JOB = (
    "INSERT INTO jobs (id, endpoint, owner, state, input, base_url, priority, attempt, spared, cancel_requested, "
    "created_at, started_at, finished_at, http_status, result) VALUES (:id, :endpoint, 'local', :state, :input, "
    "'https://queue.fal.run', 0, :attempt, 0, false, 1.0, :at, :at, :status, :result)"
)


def test_a_backup_made_while_serving_is_restored_into_a_new_folder(wire: Wire, painting_server, gate, tmp_path):
    """The database first, then the files: every file that the copied rows name is there."""
    done = [
        wire.submit(PULID, {"prompt": "x", "reference_images": [{"image_url": photo}]}) for photo in two_photos(wire)
    ]
    results = [wire.finish(request) for request in done]
    backup = tmp_path / "backup"
    backup.mkdir()
    assert back_up(painting_server.data_dir, backup, tmp_path) == 0  # last night's
    pictures = [wire.follow(result.json["images"][0]["url"]).body for result in results]
    gate.occupy()
    waiting = gate.submit()

    (backup / "queue.db.new").write_text("of a night when the power failed")
    assert back_up(painting_server.data_dir, backup, tmp_path) == 0
    gate.open()

    with ServerProcess(backup, catalog=PUBLISHED, outbound="127.0.0.0/8") as restored:
        assert [restored.wire.result(request).body for request in done] == [result.body for result in results]
        urls = [result.json["images"][0]["url"] for result in results]
        assert [restored.wire.follow(url).body for url in urls] == pictures
        assert restored.wire.finish(waiting).status == 200
        with closing(Queue(f"sqlite:///{backup / 'queue.db'}", lease_s=30, max_attempts=3)) as queue:
            assert audit(queue, FileStore(f"file://{backup / 'files'}"), quiet=False) == []


def test_a_backup_that_fails_keeps_the_one_before(tmp_path):
    """And takes no newer files to it, which would belong to no row."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    (data / "files").mkdir(parents=True)
    (data / "files" / "picture").touch()
    (data / "queue.db").write_text("damaged " * 100)
    backup.mkdir()
    with closing(sqlite3.connect(backup / "queue.db")) as before:
        before.execute("CREATE TABLE last_night (id)")
    assert back_up(data, backup, tmp_path) != 0
    with closing(sqlite3.connect(backup / "queue.db")) as kept:
        assert kept.execute("SELECT name FROM sqlite_master").fetchall() == [("last_night",)]
    assert not (backup / "files").exists()


def back_up(data_dir: Path, backup: Path, folder: Path) -> int:
    """The exit status of what docs/operations.md tells to run on one host, run on these folders."""
    text = (ROOT / "docs" / "operations.md").read_text()
    command = re.search(r"^rm -f /backup/queue\.db\.new.*?files/$", text, re.MULTILINE | re.DOTALL)[0]
    command = command.replace("/backup/", f"{backup}/").replace("data/", f"{data_dir}/")
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    rsync = programs / "rsync"  # which not every machine has
    rsync.write_text('#!/bin/sh\nshift 2\nrm -rf "$2" && cp -a "$1" "$2"\n')
    rsync.chmod(0o755)
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", command], env={**os.environ, **path}, check=False, stderr=-1).returncode


def two_photos(wire: Wire) -> list[str]:
    """A photo as an upload, and the result of a request as the input of another."""
    begun = wire.post("/storage/upload/initiate", {"content_type": "image/png"}, host="rest.fal.ai").json
    painted = wire.finish(wire.submit(BLUE_SQUARE.id, {"prompt": "x"})).json
    url = painted.get("images", [painted.get("image")])[0]["url"]
    wire.follow(begun["upload_url"], "PUT", body=wire.follow(url).body)
    return [url, begun["file_url"]]


def test_what_an_older_version_has_left_is_served_and_done(database_url, tmp_path):
    """Rows of 0003, the last release before turns and batches: a result, a request that waits, one that ran."""
    rows = {
        DONE: {"state": "COMPLETED", "status": 200, "at": time.time(), "result": '{"seed": 5}'},
        WAITING: {"state": "IN_QUEUE", "status": None, "at": None, "result": None},
    }
    store = Store(database_url)
    with store.writing_durably() as connection:
        command.upgrade(at(connection), "0003")
        for job_id, row in rows.items():
            input = json.dumps({"prompt": "x"})
            known = {"id": job_id, "endpoint": BLUE_SQUARE.id, "input": input, "attempt": 1 if row["at"] else 0}
            connection.execute(text(OLD_JOB), {**known, **row})
    store.close()

    with running_app(tmp_path, database_url=database_url) as (client, queue):
        path = f"/queue/{BLUE_SQUARE.id}/requests"
        assert client.get(f"{path}/{DONE}").json() == {"seed": 5}
        assert client.get(f"{path}/{WAITING}/status").json()["queue_position"] == 0
        [job] = queue.claim("w1", [BLUE_SQUARE.id])
        queue.finish(job, 200, {"seed": 6})
        assert (job.id, client.get(f"{path}/{job.id}").json()) == (WAITING, {"seed": 6})
        later = client.post(f"/queue/{BLUE_SQUARE.id}", json={"prompt": "y"}).json()
        assert [one.id for one in queue.claim("w1", [BLUE_SQUARE.id])] == [later["request_id"]]


def at(connection) -> Config:
    """alembic's configuration, for this connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_dump_of_postgresql_is_restored_into_another_database(postgresql, database_url, queue, tmp_path):
    """pg_dump of a server at work, and pg_restore: what operations.md tells."""
    stored = queue.put(BLUE_SQUARE.id, {"prompt": "x"}, owner="local", base_url="https://queue.fal.run")
    [job] = queue.claim("w1", [BLUE_SQUARE.id])
    queue.finish(job, 200, {"seed": 5})
    secret = queue.vault.ticket_secret()
    restored = postgresql.new_database()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)  # PostgreSQL's programs run as a user of their own here
        postgresql.tool("pg_dump", "-Fc", "-f", f"{folder}/queue.dump", "-d", plain(database_url))
        queue.put(BLUE_SQUARE.id, {"prompt": "later"}, owner="local", base_url="https://queue.fal.run")
        postgresql.tool("pg_restore", "--no-owner", "-d", plain(restored), f"{folder}/queue.dump")
    with running_app(tmp_path, database_url=restored) as (client, other):
        assert client.get(f"/queue/{BLUE_SQUARE.id}/requests/{stored.id}").json() == {"seed": 5}
        assert sum(other.census.take().states.values()) == 1
        assert other.vault.ticket_secret() == secret


def plain(database_url: str) -> str:
    """As PostgreSQL's own programs write it."""
    return database_url.replace("postgresql+psycopg://", "postgresql://")
