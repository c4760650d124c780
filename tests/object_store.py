"""ObjectStore: a real S3 endpoint on loopback (moto's server) in a process of its own, with one bucket."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError

BUCKET = "pictures"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "1"}
START_S = 60.0


class ObjectStore:
    """What the endpoint holds, seen through another client than ours."""

    url = f"s3://{BUCKET}"
    """VERAICON_FILES_URL for it, up to a prefix of one's own."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    @property
    def client(self) -> Any:
        names = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.endpoint, **names)


@contextmanager
def running_object_store(folder: Path) -> Iterator[ObjectStore]:
    """An endpoint with an empty bucket; this process's environment, and so its children's, names it meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = ObjectStore(f"http://127.0.0.1:{port}")
    with (folder / "object-store.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        make_bucket(store)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": store.endpoint}.items():
                patch.setenv(name, value)
            yield store
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def make_bucket(store: ObjectStore) -> None:
    limit = time.monotonic() + START_S
    while True:
        try:
            store.client.create_bucket(Bucket=BUCKET)
            return
        except BotoCoreError:
            assert time.monotonic() < limit, "the object store does not answer"
            time.sleep(0.05)
