"""Putting and claiming jobs of two made-up endpoints, in one line each."""

from typing import Any

from server.queue.job import Job
from server.queue.queue import Queue

A, B = "test/a", "test/b"


def put(queue: Queue, endpoint: str = A, **more: Any) -> Job:
    return queue.put(endpoint, {"prompt": "x"}, **{"owner": "me", "base_url": "http://host", **more})


def claim_one(queue: Queue, worker: str = "w1") -> Job:
    [job] = queue.claim(worker, (A, B))
    return job
