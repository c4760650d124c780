"""What a worker takes in: pictures that are slow to come, models that come and go, and how it lets go of both."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from server.worker.lineup import MOST_SLOW
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.pipelines.measured import MEASURED
from tests.worker_process import Site, eventually


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.queue.close()


@pytest.fixture(scope="module")
def silent_url() -> Iterator[str]:
    """A picture whose server takes the request and never answers."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def take() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/face.png"
        listener.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


class Trickle:
    """A picture that never ends, and how many connections are sent a little of it."""

    def __init__(self, listener: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/face.png"
        self.open = self.most = 0
        self._listener, self._counting = listener, threading.Lock()

    def serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._send, args=(connection,), daemon=True).start()

    def _send(self, connection: socket.socket) -> None:
        self._count(1)
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n")
            while True:
                connection.sendall(b"x")
                time.sleep(0.05)
        self._count(-1)

    def _count(self, more: int) -> None:
        with self._counting:
            self.open += more
            self.most = max(self.most, self.open)


@pytest.fixture
def trickle() -> Iterator[Trickle]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        trickle = Trickle(listener)
        threading.Thread(target=trickle.serve, daemon=True).start()
        yield trickle
        listener.shutdown(socket.SHUT_RDWR)


def test_slow_pictures_hold_up_nobody_but_their_own_jobs(site, silent_url):
    """They are waited for side by side, so many at most; each can be cancelled meanwhile; and none keeps a worker."""
    slow = [site.put(BLUE_SQUARE, image_url=silent_url) for _ in range(3)]
    with site.worker() as worker:
        site.prepared(*slow)
        assert site.done(site.put(BLUE_SQUARE)).http_status == 200
        assert [site.queue.get(job.id).state for job in slow] == ["IN_PROGRESS"] * 3

        site.queue.cancel(slow[0].id, "me")
        assert site.done(slow[0], 10).error_type == "client_cancelled"

        for _ in range(MOST_SLOW):
            site.put(BLUE_SQUARE, image_url=silent_url)
        eventually(lambda: site.queue.census.take().states["IN_PROGRESS"] == MOST_SLOW)
        assert site.queue.census.take().states["IN_QUEUE"] == 2

        worker.signal(signal.SIGTERM)
        assert worker.ended(15) == 0
    assert site.queue.census.take().states["IN_PROGRESS"] == 0
    assert site.queue.rescue(worker.id) == 0


@pytest.mark.parametrize("ending", ["cancelled", "leaving"])
def test_pictures_that_trickle_are_given_up_soon_when_nobody_needs_them(tmp_path, trickle, ending):
    """Of cancelled jobs, whose places other jobs need, and when the worker leaves; all that time few connections."""
    site = Site(tmp_path, fetch_timeout_s=300)
    with site.worker() as worker:
        slow = [site.put(BLUE_SQUARE, image_url=trickle.url) for _ in range(MOST_SLOW + 3)]
        eventually(lambda: trickle.open == MOST_SLOW)
        if ending == "cancelled":
            for job in slow:
                site.queue.cancel(job.id, "me")
            assert site.done(site.put(BLUE_SQUARE)).http_status == 200
            assert {site.done(job).error_type for job in slow} == {"client_cancelled"}
        else:
            worker.signal(signal.SIGTERM)
            assert worker.ended(30) == 0
            assert site.queue.census.take().states["IN_QUEUE"] == len(slow)
        eventually(lambda: trickle.open == 0)
        assert trickle.most == MOST_SLOW
    site.queue.close()


def test_a_cold_model_starts_within_its_bound_behind_a_hot_stream(tmp_path):
    """row 43: where networks come and go, the hot one goes on for `warm_s`, and not until it has no more work."""
    settings = {"catalog": "tests.pipelines.published:CATALOG", "memory_profile": "24gb", "warm_s": 2}
    site, note, cold, hot = Site(tmp_path, **settings), tmp_path / "note", 100, range(60)
    told = {"note": str(note), "step_s": 0.05}
    with site.worker():
        with site.busy(tmp_path / "gate"):
            site.prepared(site.put(BLUE_SQUARE, seed=99, **told))
            waiting = site.put(MEASURED, seed=cold, **told)
            stream = [site.put(BLUE_SQUARE, seed=seed, **told) for seed in hot]
        done = site.done(waiting)
        assert any(site.queue.get(job.id).state == "IN_QUEUE" for job in stream), "some of the stream came after it"
    assert done.started_at - done.created_at >= 2
    assert [int(line) for line in note.read_text().split()].index(cold) > 1
    site.queue.close()


def test_where_all_networks_stay_jobs_start_in_the_order_of_their_arrival(site, tmp_path):
    """row 43."""
    note = tmp_path / "note"
    with site.worker():
        site.running(site.put(BLUE_SQUARE, steps=20, step_s=0.05))
        models = (BLUE_SQUARE, MEASURED, BLUE_SQUARE, MEASURED, BLUE_SQUARE)
        jobs = [site.put(model, seed=seed, note=str(note)) for seed, model in enumerate(models)]
        assert [site.done(job).http_status for job in jobs] == [200] * len(jobs)
    assert note.read_text().split() == [str(seed) for seed in range(len(models))]
