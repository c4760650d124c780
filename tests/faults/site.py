"""FaultSite: a real `veraicon serve` of tiny PuLID with two users, and all that a test needs to break it."""

import base64
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from sqlalchemy import select

from server.auth import USUAL_SCOPES, key_hash, new_key
from server.files import FileStore
from server.queue.audit import audit
from server.queue.job import Job
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from server.queue.tables import jobs
from tests.faults.scene import Scene
from tests.server_process import ServerProcess
from tests.wire import QUEUE, Answer, Wire
from tests.worker_process import eventually

PULID = "fal-ai/pulid"
LEASE_S = 3
PATIENCE_S = 120.0
SETTLED_S, SWEPT_S = 1.0, 15.0
"""Until a worker has taken what it takes; until files of lost runs are swept."""


@dataclass(frozen=True)
class KeyedWire(Wire):
    """A Wire that presents a key with every request."""

    key: str = ""

    def send(self, *words: Any, host: str | None = QUEUE, headers: dict[str, str] | None = None) -> None:
        super().send(*words, host=host, headers={"Authorization": f"Key {self.key}"} | (headers or {}))


class FaultSite:
    """The server, its queue and its files; `anna` and `ben` are how its two users speak to it.

    Args:
        photo: of a face, as a data URI.
        database_url: of an empty database; None: SQLite in the folder.
        settings: VERAICON_* without the prefix.
    """

    process: type[ServerProcess] = ServerProcess
    """What starts the server."""

    def __init__(self, folder: Path, photo: str, database_url: str | None = None, **settings: object) -> None:
        url = database_url or f"sqlite:///{folder / 'queue.db'}"
        self.settings = {
            "database_url": url,
            "catalog": "tests.pipelines.faulty:CATALOG",
            "outbound": "127.0.0.0/8",
            "lease_s": LEASE_S,
            "heartbeat_s": 1,
        } | settings
        create_tables(url)
        self.photo = photo
        self.server = self.process(folder, port=free_port(), **self.settings)
        self.queue = self.open_queue()
        self.files = FileStore(f"file://{folder / 'files'}")
        self.keys = {name: self._new_key(name) for name in ("anna", "ben")}

    def open_queue(self) -> Queue:
        return Queue(str(self.settings["database_url"]), lease_s=LEASE_S, max_attempts=3)

    def _new_key(self, name: str) -> str:
        key = new_key()
        self.queue.keys.add(key.partition(":")[0], name, key_hash(key), USUAL_SCOPES)
        return key

    @property
    def anna(self) -> KeyedWire:
        return KeyedWire(self.server.wire.address, key=self.keys["anna"])

    @property
    def ben(self) -> KeyedWire:
        return KeyedWire(self.server.wire.address, key=self.keys["ben"])

    # Requests

    def portrait(self, scene: Scene | None = None, **input: Any) -> dict[str, Any]:
        """A small request; with a scene, one that obeys it."""
        return {
            "reference_images": [{"image_url": self.photo}],
            "prompt": scene.prompt if scene else "portrait",
            "image_size": {"width": 256, "height": 256},
            "seed": 1,
        } | input

    def submit(
        self, scene: Scene | None = None, *, query: str = "", headers: dict[str, str] | None = None, **input: Any
    ) -> dict[str, Any]:
        return self.anna.submit(PULID, self.portrait(scene, **input), query=query, **(headers or {}))

    def run(self, scene: Scene, step: int) -> dict[str, Any]:
        """Submit, and wait until it is held after `step`."""
        scene.hold(step)
        request = self.submit(scene)
        scene.wait_for(step)
        return request

    def fill(self, scene: Scene) -> None:
        """Give the only worker all that it takes, held by the scene: whatever is submitted from now on waits."""
        last = self.run(scene, step=0)
        while self.taken(last):
            last = self.submit(scene)

    def taken(self, request: dict[str, Any]) -> bool:
        """Whether a worker takes it, now or within a second."""
        limit = time.monotonic() + SETTLED_S
        while self.job(request).state == "IN_QUEUE" and time.monotonic() < limit:
            time.sleep(0.05)
        return self.job(request).state != "IN_QUEUE"

    def finish(self, request: dict[str, Any]) -> Answer:
        return self.anna.finish(request, PATIENCE_S)

    def job(self, request: dict[str, Any]) -> Job:
        job = self.queue.get(request["request_id"])
        assert job, f"request {request['request_id']} was acknowledged and is not there"
        return job

    def messages(self, request: dict[str, Any]) -> list[str]:
        """What the worker has told of it so far."""
        return [line.message for line in self.queue.logs(request["request_id"])]

    def stored(self) -> list[Job]:
        """Every request of anna's, oldest first."""
        found = (self.queue.get(entry.id) for entry in self.queue.register("anna"))
        return sorted((job for job in found if job), key=lambda job: job.seq)

    def upload_photo(self) -> str:
        """The photo's URL, for requests that must be small."""
        begun = self.anna.post("/storage/upload/initiate", {"content_type": "image/jpeg"}, host="rest.fal.ai").json
        photo = base64.b64decode(self.photo.partition(",")[2])
        assert self.anna.follow(begun["upload_url"], "PUT", body=photo).status == 200
        return begun["file_url"]

    def tries(self, request: dict[str, Any]) -> int:
        """The attempts that count: without those that a leaving worker gave back."""
        with self.queue._store.reading() as connection:
            this = jobs.c.id == request["request_id"]
            return connection.scalar(select(jobs.c.attempt - jobs.c.spared).where(this))

    def pictures(self) -> int:
        """How many pictures that were made lie in the file store."""
        return len(list((self.server.data_dir / "files").rglob("*.png")))

    @contextlib.contextmanager
    def stream(self, request: dict[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """The status stream with logs, event by event; it ends when the server ends it."""
        url = urlsplit(request["status_url"])
        connection = self.anna.connect(PATIENCE_S)
        try:
            self.anna.send(connection, "GET", f"{url.path}/stream?logs=1", host=url.netloc)
            response = connection.getresponse()
            assert response.status == 200
            yield (json.loads(line[6:]) for line in response if line.startswith(b"data: "))
        finally:
            connection.close()

    # Processes

    def http(self) -> psutil.Process:
        return self._children("server.http")[0]

    def workers(self) -> list[psutil.Process]:
        return self._children("server.worker")

    def _children(self, module: str) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.server.process.pid).children() if module in child.cmdline()]

    def restart(self) -> None:
        """On the same address, as a studio's server has one."""
        self.server.start()
        self.server.wait_until_ready()

    def kill_and_restart(self) -> None:
        self.server.kill()
        self.restart()

    # Afterwards

    def why_not_ready(self) -> str:
        """Every reason; nothing while it is ready."""
        return " ".join(self.server.wire.get("/ready", host=None).json["reasons"])

    def check(self) -> None:
        """All is finished, the server is ready again, and what is stored fits together."""
        eventually(self.server.is_ready, PATIENCE_S)
        eventually(self._idle, PATIENCE_S)
        limit = time.monotonic() + SWEPT_S
        while contradictions := self.contradictions():
            assert time.monotonic() < limit, contradictions
            time.sleep(0.1)

    def contradictions(self, *, quiet: bool = True) -> str:
        """What the invariant checker finds; nothing when all is well.

        A photo that an API was writing when it was killed is litter, which nobody can read and which keep_results_h
        ends; it contradicts nothing.
        """
        return "\n".join(told for told in audit(self.queue, self.files, quiet=quiet) if "half written" not in told)

    def _idle(self) -> bool:
        counts = self.queue.census.take().states
        return not counts["IN_QUEUE"] + counts["IN_PROGRESS"]

    def __enter__(self) -> Self:
        self.server.start()
        self.server.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self.queue.close()


def free_port() -> int:
    """One for a server that shall have the same after a restart, so that clients' URLs still lead to it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]
