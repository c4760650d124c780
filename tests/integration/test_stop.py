"""SIGTERM while clients wait on the line and a receiver hangs: the API ends in time, in words, and loses nothing."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from server import webhooks
from server.queue.job import Job
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from server.settings import Settings
from server.webhooks import Sender
from tests.conftest import PUBLISHED
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.server_process import ServerProcess
from tests.wire import QUEUE, RUN, Answer
from tests.worker_process import Site, eventually

STOPS_WITHIN_S = 12
LATER_SENDING_S = 180
"""What a receiver would wait for its webhook if it were not handed back."""


@dataclass
class Moody:
    """A receiver that never answers its first call, and every later one at once."""

    calls: list[dict] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        moody = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                moody.calls.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                if len(moody.calls) == 1:
                    moody.let_go.wait()
                    return
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing: pytest's output is no place for it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def moody() -> Iterator[Moody]:
    moody = Moody()
    yield moody
    moody.close()


def retried(queue: Queue, url: str) -> Job:
    """A finished request whose webhook failed once and is due again: its receiver has two minutes now."""
    terms = {"owner": "studio", "base_url": "http://host", "webhook": url}
    job = queue.put(BLUE_SQUARE.id, {"prompt": "x"}, finished=(200, {"images": [], "seed": 1}, None), **terms)
    [webhook] = queue.due_webhooks()
    queue.webhook_failed(webhook, "answered 500", 0.0)
    return job


def waiting_run(server: ServerProcess, queue: Queue, body: dict) -> Future[Answer]:
    """A client of the synchronous run, once its request is queued; no worker is there."""
    pool = ThreadPoolExecutor(1)
    answer = pool.submit(server.wire.post, "/fal-ai/pulid", body, host=RUN, timeout_s=60)
    eventually(lambda: queue.census.take().states["IN_QUEUE"] == 1)
    pool.shutdown(wait=False)
    return answer


def watching(server: ServerProcess, request: dict) -> socket.socket:
    """A client of the status stream, once it was told something."""
    line = socket.create_connection(server.wire.address.split(":"), timeout=60)
    path = f"/fal-ai/pulid/requests/{request['request_id']}/status/stream"
    line.sendall(f"GET {path} HTTP/1.1\r\nHost: {QUEUE}\r\n\r\n".encode())
    assert b"200 OK" in line.recv(4096)
    return line


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    create_tables(url)
    with contextlib.closing(Queue(url, lease_s=30, max_attempts=3)) as queue:
        yield queue


def test_the_api_stops_in_time_in_words_and_tells_the_receiver_after_the_restart(tmp_path, queue, moody, pulid_input):
    """A run and a status stream wait for a picture, and a receiver hangs on a retry."""
    told = retried(queue, moody.url)
    server = ServerProcess(tmp_path, "api", catalog=PUBLISHED, outbound="127.0.0.0/8")
    with server:
        eventually(lambda: moody.calls)
        answer = waiting_run(server, queue, pulid_input)
        line = watching(server, server.wire.submit("fal-ai/pulid", pulid_input))
        began = time.monotonic()
        server.stop()
        took_s = time.monotonic() - began
        line.close()
    cut, log = answer.result(), server.log
    with server:
        eventually(lambda: len(moody.calls) == 2, limit_s=LATER_SENDING_S / 3)
        eventually(lambda: queue.deliveries.sendings(job_id=told.id)[0].state == "delivered")

    assert took_s < STOPS_WITHIN_S
    assert server.process.returncode == 0
    assert [call["request_id"] for call in moody.calls] == [told.id, told.id]
    assert (cut.status, cut.json["error_type"]) == (500, "internal_error")
    assert "still queued" in cut.json["detail"]
    assert queue.get(cut.headers["x-fal-request-id"]).state == "IN_QUEUE"
    assert "Traceback" not in log
    assert len(re.findall("a client that waits on the line is cut off", log)) == 1


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.queue.close()


def stopped(site: Site, hanging: threading.Event) -> float:
    """Start a sender, stop it once `hanging`. Returns how many seconds it took to leave."""
    sender, stop = Sender(site.queue, Settings(data_dir=site.folder, **site.settings)), threading.Event()
    thread = threading.Thread(target=sender.run, args=(stop,))
    thread.start()
    assert hanging.wait(30)
    began = time.monotonic()
    stop.set()
    thread.join()
    return time.monotonic() - began


def test_a_try_that_the_stop_cuts_does_not_count_and_is_due_at_once(site, monkeypatch):
    """A name server that hangs: nothing of the look-up is left that Python would wait for at its exit."""
    looking, let_go = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def hang(host: str, *where: object, **hints: object) -> list:
        if host == "receiver.test":
            looking.set()
            let_go.wait()
            raise socket.gaierror
        return resolve(host, *where, **hints)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(webhooks, "LEAVES_S", 0.3)
    job = retried(site.queue, "http://receiver.test/")
    before = set(threading.enumerate())
    took_s = stopped(site, looking)
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    [again] = site.queue.due_webhooks()
    let_go.set()

    assert took_s < webhooks.LEAVES_S + 5
    assert left == []
    assert (again.job_id, again.tries, again.spared) == (job.id, 3, 1)
    eventually(lambda: [one.reason for one in site.queue.deliveries.of(job.id)])
    assert site.queue.due_webhooks() == [], "what the cut try came to in the end changes nothing"
    assert [one.state for one in site.queue.deliveries.sendings(job_id=job.id)] == ["waiting"]
