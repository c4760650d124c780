"""Site: the real processes under test, on one host with SQLite, or as a fleet on PostgreSQL and an object store."""

import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.soak import bucket, postgres
from scripts.soak.kept import Kept, Program, keeping
from scripts.soak.killer import Blow
from tests.server_process import environment
from tests.wire import Wire

LEASE_S = 3.0
SETTINGS = {
    "lease_s": LEASE_S,
    "heartbeat_s": LEASE_S / 3,
    "max_attempts": 1000,  # every job can be finished, however often its workers are killed
    "max_batch": 4,
    "drain_s": 5,
    "quarantine_s": 1,
    "outbound": "127.0.0.0/8",
    "max_side_px": 256,
}
FROZEN_S = 1.5 * LEASE_S
READY_S = 180.0
HTTP, WORKER = "server.http", "server.worker"


class NotReady(Exception):
    """A site did not become ready; the message says where its logs are."""


@dataclass(frozen=True)
class Stores:
    """Where a site keeps its queue and its pictures; `running`: the processes behind them."""

    database_url: str
    files_url: str
    running: Sequence[Kept] = ()


@dataclass(frozen=True)
class Site:
    """What runs. `addresses`: host:port of each HTTP process; `services`: everything but the stores."""

    addresses: Sequence[str]
    services: Sequence[Kept]
    blows: Sequence[Blow]

    def works(self) -> bool:
        """Whether requests are answered and a worker is ready."""
        return any(map(is_ready, self.addresses))

    def wait_until_ready(self, folder: Path) -> None:
        """Every HTTP process answers, and a worker is ready. Raises NotReady."""
        limit = time.monotonic() + READY_S
        for address in self.addresses:
            while not is_ready(address):
                if time.monotonic() > limit:
                    raise NotReady(f"the site is not ready after {READY_S:.0f} s: read the logs in {folder}")
                time.sleep(0.1)


def is_ready(address: str) -> bool:
    with suppress(OSError):
        return Wire(address).get("/ready", host=None, timeout_s=5).status == 200
    return False


@contextmanager
def sqlite(folder: Path) -> Iterator[Stores]:
    data = folder / "host"
    data.mkdir()
    yield Stores(f"sqlite:///{data / 'queue.db'}", f"file://{data / 'files'}")


@contextmanager
def postgresql(folder: Path) -> Iterator[Stores]:
    """PostgreSQL and a bucket, whose credentials are in this process's environment meanwhile."""
    database_port, bucket_port = free_port(), free_port()
    programs = (
        postgres.postgresql(folder / "pgdata", database_port, folder / "postgresql.log"),
        bucket.bucket(bucket_port, folder / "bucket.log"),
    )
    before = dict(os.environ)
    os.environ.update(bucket.credentials(bucket_port))
    try:
        with keeping(*programs) as running:
            postgres.wait_for(database_port)
            yield Stores(postgres.url(database_port), bucket.create(bucket_port), running)
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def one_host(folder: Path, stores: Stores, catalog: str) -> Iterator[Site]:
    """`veraicon serve` with two workers."""
    port = free_port()
    addresses = [f"127.0.0.1:{port}"]
    with keeping(veraicon("host", folder, "serve", catalog=catalog, port=port, workers=2)) as [server]:
        blows = [
            Blow("HTTP process killed", 3, partial(server.kill_child, HTTP), at_once=True),
            Blow("worker killed", 4, partial(server.kill_child, WORKER)),
            Blow("worker frozen", 2, partial(server.freeze_child, WORKER, FROZEN_S)),
            Blow("everything killed", 1, lambda _: server.kill_all()),
            Blow("parent killed", 1, lambda _: server.kill_alone()),
            Blow("drained", 1, lambda _: server.signal(signal.SIGTERM)),
        ]
        yield Site(addresses, [server], blows)


@contextmanager
def fleet(folder: Path, stores: Stores, catalog: str) -> Iterator[Site]:
    """Two `veraicon api` and two `veraicon worker` with a data folder each."""
    ports = [free_port(), free_port()]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    shared = {"catalog": catalog, "database_url": stores.database_url, "files_url": stores.files_url}
    apis = [
        veraicon(f"api-{n}", folder, "api", port=port, worker_name=f"api-{n}", **shared) for n, port in enumerate(ports)
    ]
    workers = [veraicon(f"worker-{n}", folder, "worker", worker_name=f"worker-{n}", **shared) for n in range(2)]
    database = stores.running[0]
    with keeping(*apis, *workers) as services:
        api, worker = partial(random.Random.choice, seq=services[:2]), partial(random.Random.choice, seq=services[2:])
        blows = [
            Blow("HTTP process killed", 2, lambda chance: api(chance).kill_child(HTTP, chance), at_once=True),
            Blow("API killed", 2, lambda chance: api(chance).kill_all()),
            Blow("API's parent killed", 1, lambda chance: api(chance).kill_alone()),
            Blow("worker killed", 3, lambda chance: worker(chance).kill_child(WORKER, chance)),
            Blow("worker frozen", 2, lambda chance: worker(chance).freeze_child(WORKER, FROZEN_S, chance)),
            Blow("worker's host killed", 1, lambda chance: worker(chance).kill_all()),
            Blow("worker's parent killed", 1, lambda chance: worker(chance).kill_alone()),
            Blow("worker drained", 1, lambda chance: worker(chance).signal(signal.SIGTERM)),
            Blow("database killed", 1, lambda _: database.signal(signal.SIGKILL), at_once=True),
            Blow("database stopped at once", 1, lambda _: database.signal(signal.SIGQUIT), at_once=True),
        ]
        yield Site(addresses, services, blows)


STORES = {"sqlite": sqlite, "postgresql": postgresql}
LAYOUTS = {"sqlite": one_host, "postgresql": fleet}


def veraicon(name: str, folder: Path, command: str, **settings: object) -> Program:
    """One `veraicon` command over a data folder of its own, its log beside it."""
    data = folder / name
    data.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "server.cli", command]
    return Program(name, words, environment(data, **SETTINGS, **settings), folder / f"{name}.log")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]
