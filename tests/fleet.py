"""Fleet: several hosts on one database and one object store: each a process with a data folder of its own."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from server.files import FileStore
from server.queue.audit import audit
from server.queue.queue import Queue
from tests.databases import PostgreSQL, running_postgresql
from tests.object_store import ObjectStore, running_object_store
from tests.server_process import START_S, ServerProcess
from tests.wire import Wire
from tests.worker_process import eventually

LEASE_S = 3.0
ROLE = "veraicon"
"""The database's owner, an ordinary user of the server: a superuser obeys no connection limit."""


class Fleet:
    """What the hosts share, and the hosts.

    Args:
        settings: VERAICON_* of every host, without the prefix.
    """

    def __init__(self, folder: Path, server: PostgreSQL, store: ObjectStore, **settings: object) -> None:
        self.folder, self.server = folder, server
        self.database_url, self.files_url = server.new_database(ROLE), f"{store.url}/{folder.name}"
        shared = {"database_url": self.database_url, "files_url": self.files_url, "outbound": "127.0.0.0/8"}
        self.settings = {**shared, "lease_s": LEASE_S, "heartbeat_s": 0.9, "drain_s": 2} | settings
        self.hosts: list[ServerProcess] = []

    def host(self, command: str, name: str, **settings: object) -> ServerProcess:
        """A host that is starting: `api`, or `worker`."""
        data_dir = self.folder / name
        data_dir.mkdir()
        host = ServerProcess(data_dir, command, worker_name=name, **(self.settings | settings))
        self.hosts.append(host)
        host.start()
        return host

    def wait_until_ready(self, api: ServerProcess, workers: int) -> None:
        """Until every API answers, and that many workers are ready."""
        for host in self.hosts:
            if "api" in host.words:
                host.wait_until_ready()
        eventually(lambda: ready_workers(api.wire) == workers, START_S)

    def close(self) -> None:
        for host in self.hosts:
            host.kill()

    def sql(self, statement: str) -> list[TupleRow]:
        """What the database's superuser gets for `statement`, in the fleet's database."""
        url = self.database_url.replace("postgresql+psycopg://", "postgresql://").replace(f"//{ROLE}@", "//postgres@")
        with psycopg.connect(url, autocommit=True) as connection:
            answer = connection.execute(statement)
            return answer.fetchall() if answer.description else []

    @contextmanager
    def queue(self) -> Iterator[Queue]:
        queue = Queue(self.database_url, lease_s=LEASE_S, max_attempts=3)
        try:
            yield queue
        finally:
            queue.close()

    def contradictions(self) -> list[str]:
        """What the audit finds, with nothing running."""
        with self.queue() as queue:
            return audit(queue, FileStore(self.files_url))


def ready_workers(wire: Wire) -> int:
    """How many are ready, as `/ready` says; none while it says nothing."""
    try:
        workers = wire.get("/ready", host=None).json.get("workers", [])
    except OSError:
        return 0
    return sum(worker["state"] == "ready" for worker in workers)


def patiently(wire: Wire, endpoint: str, body: dict[str, Any], limit_s: float = 60.0) -> dict[str, Any]:
    """Submit as a client does that obeys a 503: again a little later, until it is acknowledged."""
    limit = time.monotonic() + limit_s
    while True:
        answer = wire.post(f"/{endpoint}", body)
        if answer.status == 200:
            return answer.json
        assert answer.status == 503, (answer.status, answer.body)
        assert "Retry-After" in answer.headers
        assert time.monotonic() < limit, f"still 503 after {limit_s} s"
        time.sleep(0.1)


@contextmanager
def shared_services(folder: Path) -> Iterator[tuple[PostgreSQL, ObjectStore]]:
    """A PostgreSQL of one's own, which may be crashed, and an object store."""
    with (
        # Not below pytest's folder, which any other run makes inaccessible to the user that PostgreSQL runs as.
        tempfile.TemporaryDirectory(prefix="postgresql-") as data,
        running_postgresql(Path(data)) as server,
        running_object_store(folder) as store,
    ):
        server.add_role(ROLE)
        yield server, store
