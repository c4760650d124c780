"""A run of ten minutes is not cut: the real HTTP process's server on a clock that runs 120 times as fast (§3)."""

import asyncio
import json
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.app import create_app
from server.files import FileStore
from server.http import configuration
from server.queue.migrations import create_tables
from server.queue.opening import open_queue
from server.queue.queue import Queue
from server.settings import read_settings
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.wire import RUN, Answer, Wire
from tests.worker_process import eventually

import uvicorn  # isort: skip

FASTER = 120
TEN_MINUTES_S = 600


class HurriedSelector(selectors.DefaultSelector):
    """Sleeps for as long as the loop's fast clock needs."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / FASTER if timeout else timeout)


class HurriedLoop(asyncio.SelectorEventLoop):
    """Every timer of asyncio, and so every timeout of the server, comes FASTER times as early."""

    def __init__(self) -> None:
        super().__init__(HurriedSelector())

    def time(self) -> float:
        return super().time() * FASTER


@contextmanager
def hurried_server(folder: Path) -> Iterator[tuple[Wire, Queue]]:
    settings = read_settings(data_dir=folder, weights="tiny")
    create_tables(settings.resolved_database_url)
    with open_queue(settings) as queue, socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(settings, [BLUE_SQUARE], queue, FileStore(settings.resolved_files_url))
        server = uvicorn.Server(configuration(app, settings))

        def serve() -> None:
            with asyncio.Runner(loop_factory=HurriedLoop) as runner:
                runner.run(server.serve(sockets=[listener]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Wire(f"127.0.0.1:{listener.getsockname()[1]}"), queue
        finally:
            server.should_exit = True
            thread.join()


def test_a_run_of_ten_minutes_is_answered(tmp_path):
    """64: no timer of the HTTP process ends it, and an idle connection of the same process is closed meanwhile."""
    with hurried_server(tmp_path) as (wire, queue):
        began, answers = time.monotonic(), list[Answer]()
        run = threading.Thread(
            target=lambda: answers.append(wire.post(f"/{BLUE_SQUARE.id}", {"prompt": "x"}, host=RUN))
        )
        with socket.create_connection(tuple(wire.address.split(":"))) as idle:
            run.start()
            [job] = eventually(lambda: queue.claim("worker", [BLUE_SQUARE.id]))
            idle.settimeout(30)
            assert idle.recv(1) == b"", "the clock does not run fast: nothing closed the idle connection"
            while (time.monotonic() - began) * FASTER < TEN_MINUTES_S + 60:
                queue.heartbeat(job)
                time.sleep(0.1)
        assert not answers
        queue.finish(job, 200, {"images": [], "seed": 1})
        run.join()

    assert answers[0].status == 200
    assert json.loads(answers[0].body) == {"images": [], "seed": 1}
