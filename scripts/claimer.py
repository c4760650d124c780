"""A worker that only claims and finishes: `python -m scripts.claimer URL`, for scripts.bench_queue.

Each line that it prints is a claim: the time at which `claim` returned, and the ids. A line on its input starts it.
"""

import argparse
import sys
import threading
import time
import uuid
from collections.abc import Sequence

from server.queue.job import Job
from server.queue.queue import Queue

ENDPOINT = "bench/queue"
NOTHING_LEFT_S = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--most", type=int, default=1, help="jobs per claim")
    parser.add_argument("--drain", action="store_true", help="end when there is nothing left")
    arguments = parser.parse_args()
    queue, worker = Queue(arguments.url, lease_s=30, max_attempts=3), f"claimer:{uuid.uuid4()}"
    rings = queue.rings("work")
    next(rings)
    say("ready")
    sys.stdin.readline()
    over = threading.Event()
    threading.Thread(target=leave_with_parent, args=(over,), daemon=True).start()
    idle_since = time.monotonic()
    while not over.is_set():
        while claimed := queue.claim(worker, [ENDPOINT], arguments.most):
            say(" ".join([str(time.monotonic_ns()), *(job.id for job in claimed)]))
            finish(queue, claimed)
            idle_since = time.monotonic()
        if arguments.drain and time.monotonic() - idle_since > NOTHING_LEFT_S:
            break
        next(rings)
    queue.close()


def finish(queue: Queue, jobs: Sequence[Job]) -> None:
    for job in jobs:
        queue.finish(job, 200, {"seed": 1})


def say(line: str) -> None:
    print(line, flush=True)


def leave_with_parent(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


if __name__ == "__main__":
    main()
