"""Files on an object store: two hosts, one database, one bucket; what has ended is gone from both; and no bucket."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer
from structlog.testing import capture_logs

from server.caretaker import sweep, take_care
from server.files import FileMissing, FilesError, FileStore, new_id
from server.objects import FilesUnreachable
from tests.app import running_app
from tests.server_process import veraicon
from tests.worker_process import eventually

PNG = {"content_type": "image/png", "file_name": "face.png"}
SECOND = {"X-Fal-Object-Lifecycle": json.dumps({"expiration_duration_seconds": 1})}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "1"}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="pictures")
    yield "s3://pictures/site"
    server.stop()


def test_an_upload_through_two_hosts_ends_on_both(bucket, tmp_path):
    """79: begun here, its parts sent there, completed here; ended, it is 404 on each, and the bucket is empty."""
    database = f"sqlite:///{tmp_path}/queue.db"
    shared = {"files_url": bucket, "database_url": database}
    with (
        running_app(tmp_path / "here", **shared) as (here, queue),
        running_app(tmp_path / "there", **shared) as (there, _),
    ):
        begun = here.post("/storage/upload/initiate-multipart", json=PNG, headers=SECOND).json()
        path, _, query = begun["upload_url"].partition("?")
        sent = [there.put(f"{path}/{number}?{query}", content=b"%d" % number) for number in (2, 1)]
        done = here.post(f"{path}/complete?{query}", json={"parts": [part.json() for part in sent]})
        got = there.get(begun["file_url"])
        time.sleep(1.1)
        ended = [host.get(begun["file_url"]).status_code for host in (here, there)]
        sweep(queue, FileStore(bucket))

    assert [answer.status_code for answer in (*sent, done, got)] == [200] * 4
    assert (got.content, got.headers["content-type"]) == (b"12", "image/png")
    assert ended == [404, 404]
    assert boto3.client("s3", region_name="us-east-1").list_objects_v2(Bucket="pictures")["KeyCount"] == 0


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a store whose endpoint refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"http://127.0.0.1:{gone.getsockname()[1]}"
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    return "s3://pictures/site"


def test_files_on_s3_are_listed_measured_and_pruned(bucket):
    def at_once(file_ids, delete_old):
        delete_old(file_ids)

    files = FileStore(bucket)
    one, two = (files.save(data, "image/png") for data in (b"x" * 10, b"y" * 5_000_000))
    files.save_part(one.id, 1, b"part")
    assert sorted(files.listing()) == sorted([(one.id, 10, True), (two.id, 5_000_000, True), (one.id, 4, False)])
    assert files.stat(two.id) == two
    assert files.read(two.id) == b"y" * 5_000_000
    assert b"".join(files.stream(two.id, 4_999_998)) == b"yy"
    assert files.prune(3600, at_once) == 0
    assert files.prune(-1, at_once) == 3
    assert list(files.listing()) == []
    with pytest.raises(FileMissing):
        files.read(one.id)
    files.delete([one.id, two.id])  # what is gone already is no trouble


def test_a_store_is_tried_before_anything_is_served(bucket, tmp_path, monkeypatch):
    """Not only the URL: a bucket that is not there, and credentials that are wrong, would fail every request."""
    FileStore(bucket).check()
    assert list(FileStore(bucket).listing()) == []
    with pytest.raises(FilesError, match=r"NoSuchBucket[\s\S]*AWS_ENDPOINT_URL"):
        FileStore("s3://elsewhere").check()
    refused = veraicon(tmp_path, "api", files_url="s3://elsewhere/site")
    assert refused.returncode == 1
    assert "cannot be written" in refused.stderr
    assert "check that the bucket exists" in refused.stderr


def test_a_store_that_is_away_is_503_and_nothing_is_acknowledged(nowhere, tmp_path, pulid_input):
    """row 18: also where pictures lie elsewhere than in the data folder; and a file's id stays out of the log."""
    file_id = new_id("image/png")
    with running_app(tmp_path, files_url=nowhere) as (client, queue), capture_logs() as logged:
        answers = [client.post("/queue/fal-ai/pulid", json=pulid_input), client.get(f"/files/{file_id}")]
        assert sum(queue.census.take().states.values()) == 0
    with pytest.raises(FilesUnreachable) as caught:
        FileStore(nowhere).stat(file_id)

    assert [(answer.status_code, answer.headers["Retry-After"]) for answer in answers] == [(503, "5")] * 2
    assert [answer.json()["error_type"] for answer in answers] == ["service_unavailable"] * 2
    assert file_id not in f"{caught.value}{logged}"
    assert ["HTTP error" in entry["reason"] for entry in logged if "reason" in entry] == [True, True]


def test_the_caretaker_goes_on_while_the_store_is_away(nowhere, tmp_path):
    """Else nobody would rescue lost jobs any more."""
    with running_app(tmp_path) as (_, queue), capture_logs() as logged:
        stop = threading.Event()
        caretaker = threading.Thread(target=take_care, args=(queue, FileStore(nowhere), 1e-3, stop, 1.0))
        caretaker.start()
        try:
            eventually(lambda: [entry.get("error") for entry in logged].count("FilesUnreachable") > 1)
        finally:
            stop.set()
            caretaker.join()
