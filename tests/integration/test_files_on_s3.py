"""Uploads on an object store: two hosts, one database, one bucket; what has ended is gone from both (79)."""

import json
import time
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from server.caretaker import sweep
from server.files import FileStore
from tests.app import running_app

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
