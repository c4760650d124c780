"""WorkerProcess: a real `python -m server.worker` on characters, beside the queue and the files that the test sees."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pipelines.endpoint import Endpoint
from server.files import FileStore
from server.queue.job import Job
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from tests.pipelines.gate import GATE
from tests.server_process import ROOT, environment

PATIENCE_S = 60.0
LEASE_S = 2.0


def eventually(happened: Callable[[], Any], limit_s: float = PATIENCE_S) -> Any:
    """The first true answer of `happened`. Fails after `limit_s`."""
    limit = time.monotonic() + limit_s
    while not (answer := happened()):
        assert time.monotonic() < limit, f"it did not happen within {limit_s} s"
        time.sleep(0.02)
    return answer


class Site:
    """One data folder with its queue: what the server's processes share, without the HTTP process.

    Args:
        settings: VERAICON_* without the prefix.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        url = f"sqlite:///{folder / 'queue.db'}"
        self.settings = {
            "database_url": url,
            "catalog": "tests.pipelines.catalog:CATALOG",
            "lease_s": LEASE_S,
            "heartbeat_s": 0.4,
            "outbound": "127.0.0.0/8",
        } | settings
        create_tables(str(self.settings["database_url"]))
        lease_s = float(str(self.settings["lease_s"]))
        self.queue = Queue(str(self.settings["database_url"]), lease_s=lease_s, max_attempts=3)
        self.files = FileStore(f"file://{folder / 'files'}")

    def put(self, endpoint: Endpoint, **input: Any) -> Job:
        body = {"prompt": "x", **input}
        key = endpoint.input.model_validate(body).batch_key()
        return self.queue.put(endpoint.id, body, owner="me", base_url="http://host", batch_key=key)

    def done(self, job: Job, limit_s: float = PATIENCE_S) -> Job:
        """The job, once it is finished."""

        def finished() -> Job | None:
            now = self.queue.get(job.id)
            return now if now and now.state == "COMPLETED" else None

        return eventually(finished, limit_s)

    def running(self, job: Job) -> Job:
        """The job, once it has made a step."""
        eventually(lambda: any(line.message.startswith("Step") for line in self.queue.logs(job.id)))
        return self.queue.get(job.id)

    @contextmanager
    def busy(self, folder: Path) -> Iterator[None]:
        """Inside, the worker's device is busy; for catalogs with a gate."""
        folder.mkdir()
        self.running(self.put(GATE, folder=str(folder)))
        try:
            yield
        finally:
            (folder / "open").touch()

    def prepared(self, *jobs: Job) -> list[Job]:
        """The jobs, once a worker has prepared them, or begun to."""
        eventually(lambda: all("Preparing" in self.messages(job) for job in jobs))
        return list(jobs)

    def messages(self, job: Job) -> list[str]:
        return [line.message for line in self.queue.logs(job.id)]

    def ready(self) -> bool:
        return any(worker.state == "ready" for worker in self.queue.workers())

    def worker(self) -> "WorkerProcess":
        return WorkerProcess(self)


class WorkerProcess:
    """Everything that it prints is in `log`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.log_file = site.folder / f"worker-{time.monotonic_ns()}.log"
        self.id = f"test:{time.monotonic_ns()}"
        with self.log_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server.worker", "--name", "test:0", "--id", self.id],
                cwd=ROOT,
                env=environment(site.folder, **site.settings),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, limit_s: float = PATIENCE_S) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(limit_s)
