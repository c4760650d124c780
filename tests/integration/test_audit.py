"""The audit finds what is made wrong by hand, on both databases, and nothing where all is well."""

import json

import pytest
from sqlalchemy import create_engine, text

from server.files import FileStore
from server.queue.audit import audit
from server.queue.job import LogLine
from tests.jobs import claim_one, put
from tests.server_process import veraicon

PICTURE = b"twelve bytes"


@pytest.fixture
def files(tmp_path):
    return FileStore(f"file://{tmp_path / 'files'}")


@pytest.fixture
def story(queue, files):
    """One job of each kind: done with a picture and a webhook, refused, cancelled, waiting with a photo."""
    photo = files.save(b"a face", "image/png")
    done = put(queue, webhook="http://w/")
    job = claim_one(queue)
    queue.log(job, LogLine(1.0, "Step 1 of 1"))
    picture = files.save(PICTURE, "image/png")
    assert queue.finish(job, 200, body_of(picture))
    refused = put(queue, finished=(422, {"detail": []}, "missing"))
    cancelled = put(queue)
    queue.cancel(cancelled.id)
    waiting = queue.put("test/a", {"face": f"file:{photo.id}"}, owner="me", base_url="http://host")
    return {"done": done, "refused": refused, "cancelled": cancelled, "waiting": waiting, "picture": picture}


def body_of(picture):
    return {"images": [{"url": f"file:{picture.id}", "file_size": picture.size}], "seed": 1}


def test_where_all_is_well_nothing_is_found(queue, files, story):
    assert audit(queue, files) == []
    claim_one(queue)
    assert audit(queue, files, quiet=False) == []
    [running] = audit(queue, files)
    assert "runs, though no worker does" in running


TAMPERED = [
    ("UPDATE jobs SET http_status = NULL WHERE id = :done", "finished without a status"),
    ("UPDATE jobs SET result = NULL WHERE id = :refused", "finished without a status, a time or a body"),
    ("UPDATE jobs SET attempt = 0 WHERE id = :done", "succeeded, but never ran"),
    ("UPDATE jobs SET error_type = NULL WHERE id = :refused", "failed without saying how"),
    ("UPDATE jobs SET error_type = 'x' WHERE id = :done", "succeeded, but names an error"),
    ("UPDATE jobs SET worker = 'w' WHERE id = :waiting", "waits, but a worker has it"),
    ("UPDATE jobs SET http_status = 200 WHERE id = :waiting", "unfinished, but has an outcome"),
    ("UPDATE jobs SET drafts = '[\"x\"]' WHERE id = :done", "names files that a worker is writing"),
    ("UPDATE jobs SET state = 'LOST' WHERE id = :waiting", "a state that does not exist"),
    ("UPDATE jobs SET state = 'IN_PROGRESS' WHERE id = :waiting", "runs without a worker"),
    ("DELETE FROM outbox", "has 0 webhooks in the outbox instead of 1"),
    ("INSERT INTO outbox (job_id, url) SELECT job_id, url FROM outbox", "has 2 webhooks in the outbox instead of 1"),
    ("INSERT INTO outbox (job_id, url) VALUES (:waiting, 'http://w/')", "webhook in the outbox, but is not finished"),
    ("DELETE FROM jobs WHERE id = :done", "is not there, but its log lines are"),
    ("DELETE FROM jobs WHERE id = :done", "no request and no upload knows it"),
    ("UPDATE jobs SET result = (SELECT result FROM jobs WHERE id = :done), http_status = 200, error_type = NULL, "
     "attempt = 1, started_at = 1 WHERE id = :cancelled", "have the same picture"),
    ("UPDATE jobs SET result = '{\"image\": {\"url\": \"file:gone\"}}' WHERE id = :done", "gone… is not stored"),
    ("UPDATE jobs SET input = '{\"face\": \"file:" + "0" * 32 + "_x.png\"}' WHERE id = :waiting",
     "needs the photo 000000000000…"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "told"), TAMPERED, ids=[told for _, told in TAMPERED])
def test_each_contradiction_is_told(database_url, queue, files, story, statement, told):
    tamper(database_url, statement, story)
    found = audit(queue, files)
    assert [sentence for sentence in found if told in sentence], found
    assert "http://w/" not in "".join(found)


def tamper(database_url, statement, story):
    engine = create_engine(database_url)
    ids = {name: story[name].id for name in ("done", "refused", "cancelled", "waiting") if f":{name}" in statement}
    with engine.begin() as connection:
        connection.execute(text(statement), ids)
    engine.dispose()


def test_files_that_went_grew_or_were_left_are_told(queue, files, story, tmp_path):
    picture = story["picture"]
    where = tmp_path / "files" / picture.id[:2] / picture.id
    where.write_bytes(PICTURE + b"!")
    assert ["12 bytes, but 13 are stored" in told for told in audit(queue, files)] == [True]
    where.unlink()
    assert ["is not stored" in told for told in audit(queue, files)] == [True]
    assert audit(queue, files, keep_s=0) == []
    where.write_bytes(PICTURE)
    where.with_name(f".{picture.id}.0a1b2c3d").write_bytes(b"half")
    assert ["half written" in told for told in audit(queue, files)] == [True]


def test_what_an_upload_or_a_running_worker_writes_is_known(queue, files, story):
    upload = files.save(b"bytes", "image/png")
    assert len(audit(queue, files)) == 1
    queue.ledger.begin(upload.id, "me", 60, None)
    files.save_part(upload.id, 1, b"part")
    assert audit(queue, files) == []


def test_the_command_tells_and_exits_with_1(tmp_path):
    assert veraicon(tmp_path, "queue", "audit").returncode == 0
    orphan = FileStore(f"file://{tmp_path / 'files'}").save(b"a face", "image/png")
    done = veraicon(tmp_path, "queue", "audit", "--stopped")
    assert done.returncode == 1
    assert f"the file {orphan.id[:12]}" in done.stdout
    assert "keep_results_h" in done.stdout
    assert json.dumps(orphan.id) not in done.stdout
