"""Clients that do not take their answers: the real HTTP process, real sockets with small buffers."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from server.queue.job import Job, LogLine
from server.queue.queue import Queue
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.server_process import ServerProcess
from tests.worker_process import eventually

SEND_TIMEOUT_S = 1.0
LINE = "x" * 50_000
LINES = 400
"""20 MB: more than any socket's buffers."""
MOST_GROWTH = 200e6
"""What one look at 20 MB of log and one event of it may cost, several times over; far below 30 events of it."""


@pytest.fixture(scope="module")
def api(tmp_path_factory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("slow")
    catalog = "tests.pipelines.catalog:CATALOG"
    with ServerProcess(folder, "api", catalog=catalog, send_timeout_s=SEND_TIMEOUT_S) as server:
        yield server


@pytest.fixture
def queue(api) -> Iterator[Queue]:
    queue = Queue(f"sqlite:///{api.data_dir / 'queue.db'}", lease_s=60, max_attempts=3)
    yield queue
    queue.close()


@pytest.fixture
def running(api, queue) -> Job:
    """A job in the hands of a worker, which is this test."""
    api.wire.submit(BLUE_SQUARE.id, {"prompt": "x"})
    [job] = queue.claim("test", [BLUE_SQUARE.id])
    return job


def open_stream(api: ServerProcess, job: Job, buffer: int = 1 << 20) -> socket.socket:
    host, port = api.wire.address.split(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    reader.settimeout(30)
    reader.connect((host, int(port)))
    path = f"/queue/{BLUE_SQUARE.id}/requests/{job.id}/status/stream?logs=1"
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: {api.wire.address}\r\nConnection: close\r\n\r\n".encode())
    return reader


def read_all(reader: socket.socket) -> bytes:
    """What still comes, to the end of the connection, whichever way it ends."""
    content = bytearray()
    with contextlib.suppress(ConnectionError):
        while received := reader.recv(1 << 20):
            content += received
    return bytes(content)


def http_process(api: ServerProcess) -> psutil.Process:
    [process] = [process for process in api.family() if "server.http" in process.cmdline()]
    return process


def test_a_stream_that_nobody_reads_is_cut_and_its_client_can_come_back(api, queue, running):
    """row 39: what waits for the reader is bounded, and the next stream tells everything again, from the first line."""
    process = http_process(api)
    with open_stream(api, running, buffer=4096) as reader:
        reader.recv(1000)
        before = process.memory_info().rss
        for _ in range(LINES // 20):
            queue.log(running, *(LogLine(time.time(), LINE) for _ in range(20)))
        eventually(lambda: not connections(process, reader), limit_s=20)
        assert process.memory_info().rss - before < MOST_GROWTH
        assert b'"COMPLETED"' not in read_all(reader)

    assert queue.finish(running, 200, {"images": [], "seed": 7})
    with open_stream(api, running) as reader:
        head, _, events = read_all(reader).partition(b"\r\n\r\n")
    event = json.loads(unchunked(events).removeprefix(b"data: "))
    assert head.startswith(b"HTTP/1.1 200")
    assert event["status"] == "COMPLETED"
    assert len(event["logs"]) == LINES


def test_a_slow_reader_is_not_cut_while_it_takes_something(api, queue, running):
    """row 39: slow is no fault; only taking nothing is."""
    queue.log(running, *(LogLine(time.time(), LINE) for _ in range(LINES // 2)))
    queue.finish(running, 200, {"images": [], "seed": 7})
    content = bytearray()
    with open_stream(api, running, buffer=1 << 16) as reader:
        until = time.monotonic() + 2.5 * SEND_TIMEOUT_S
        while time.monotonic() < until:
            content += reader.recv(1 << 16)
            time.sleep(0.02)
        content += read_all(reader)
    assert b'"COMPLETED"' in content
    assert content.count(LINE.encode()) >= LINES // 2 - 40  # chunked encoding may cut through some


def connections(process: psutil.Process, reader: socket.socket) -> list[int]:
    """The server's end of this connection, while it has one."""
    port = reader.getsockname()[1]
    return [one.fd for one in process.net_connections("tcp") if one.raddr and one.raddr.port == port]


def unchunked(body: bytes) -> bytes:
    """The content of a chunked body."""
    content = bytearray()
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        content += body[:length]
        body = body[length + 2 :]
    return bytes(content)
