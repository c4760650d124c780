"""Bucket: an S3 store over HTTP in a process of its own; moto keeps it in memory, so it is never killed."""

import os
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from scripts.soak.kept import Program

NAME = "pictures"
STARTS_S = 60.0


def bucket(port: int, log: Path) -> Program:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return Program("bucket", command, dict(os.environ), log)


def credentials(port: int) -> dict[str, str]:
    """The environment in which obstore finds the bucket."""
    return {
        "AWS_ACCESS_KEY_ID": "soak",
        "AWS_SECRET_ACCESS_KEY": "soak",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


def create(port: int) -> str:
    """Make the bucket as soon as the store answers; returns its files_url."""
    known = credentials(port)
    client = boto3.client(
        "s3",
        region_name=known["AWS_REGION"],
        endpoint_url=known["AWS_ENDPOINT_URL"],
        aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"max_attempts": 0}),
    )
    limit = time.monotonic() + STARTS_S
    while True:
        try:
            client.create_bucket(Bucket=NAME)
            return f"s3://{NAME}/site"
        except BotoCoreError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)
