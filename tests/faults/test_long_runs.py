"""What only shows after a while: memory that grows, a model that nobody gets to, a client that does not keep up."""

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from pipelines.instantid.endpoint import INSTANTID_LCM
from server.queue.job import LogLine
from server.worker.drift import FIRST_JOBS
from tests.faults.site import PATIENCE_S, FaultSite
from tests.worker_process import eventually

WARM_S, SEND_TIMEOUT_S = 2, 1
MOST_AHEAD = 2
"""What a worker that turns to another model has taken ahead of the one before, and one more that it takes just then."""
STREAM, FED_S = 30, 20
"""Requests that wait for the hot model before the card is free; how long more of them come if the cold one starves."""
HOARDING = 5
LINE, LINES, AT_ONCE = "x" * 50_000, 400, 20
"""20 MB of log: more than any socket's buffers."""
MOST_GROWTH = 200e6
"""What one look at 20 MB of log and one event of it may cost, several times over."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, face_photo: str) -> Iterator[FaultSite]:
    """Two models of which only one fits on the card, little patience with memory, and little with readers."""
    settings = {"memory_profile": "24gb", "warm_s": WARM_S, "recycle_rss_gb": 0.2, "send_timeout_s": SEND_TIMEOUT_S}
    more = {"catalog": "tests.pipelines.crowded:CATALOG", "max_side_px": 256, "max_attempts": 2}
    with FaultSite(tmp_path_factory.mktemp("site"), face_photo, **settings, **more) as site:
        yield site


def picture(site: FaultSite, request: dict[str, Any]) -> bytes:
    return site.anna.follow(site.finish(request).json["images"][0]["url"]).body


def test_a_cold_model_starts_within_its_bound_behind_a_hot_stream(site, scene):
    """row 43: the hot model goes on for `warm_s`, then the cold one's turn has come; the hot one's pictures stay."""
    wish = {"seed": 7, "reference_images": [{"image_url": site.upload_photo()}]}
    first = picture(site, site.submit(**wish))
    site.fill(scene)
    cold = site.anna.submit(INSTANTID_LCM.id, {"face_image_url": site.photo, "prompt": "portrait", "seed": 1})
    stream = [site.submit(**wish) for _ in range(STREAM)]
    scene.release()
    limit = time.monotonic() + FED_S
    while site.job(cold).state == "IN_QUEUE" and time.monotonic() < limit:
        stream.append(site.submit(**wish))
    ended = [site.anna.cancel(each).status for each in stream]
    result, job = site.finish(cold), site.job(cold)
    due_at = job.created_at + WARM_S
    hot = [each.started_at for each in map(site.job, stream) if each.started_at and each.started_at < job.started_at]

    assert result.status == 200
    assert job.started_at >= due_at, "the model that was on the card went first"
    assert len([at for at in hot if at > due_at]) <= MOST_AHEAD
    assert 202 in ended, "some of the stream came after it"
    assert picture(site, site.submit(**wish)) == first


def test_a_worker_whose_memory_grows_is_replaced_between_two_requests(site, scene):
    """row 16: every request runs once and gets its picture."""
    for request in [site.submit(num_inference_steps=2) for _ in range(FIRST_JOBS)]:
        assert site.finish(request).status == 200
    scene.fail(*["hoard"] * HOARDING)
    requests = [site.submit(scene, num_inference_steps=2) for _ in range(HOARDING)]

    assert [site.finish(request).status for request in requests] == [200] * HOARDING
    assert [site.tries(request) for request in requests] == [1] * HOARDING
    assert len(scene.runs) == HOARDING
    assert len(set(scene.runs)) == 2
    assert "memory grew by" in site.server.log
    assert not psutil.pid_exists(scene.runs[0])
    assert [worker.pid for worker in site.workers()] == [scene.runs[-1]]


def test_a_stream_that_nobody_reads_is_cut_and_its_client_can_come_back(site, scene):
    """row 39: what waits for it is bounded; the next stream tells all, from the first line; the request goes on."""
    request, api = site.run(scene, step=2), site.http()
    eventually(lambda: "Step 1/4" in site.messages(request))
    with slow_stream(site, request, buffer=4096) as reader:
        reader.recv(1000)
        before = api.memory_info().rss
        for _ in range(LINES // AT_ONCE):
            write(site, request, AT_ONCE)
        eventually(lambda: not ends_of(api, reader))
        grown = api.memory_info().rss - before
    scene.release()
    with site.stream(request) as events:
        told = list(events)
    messages = [line["message"] for event in told for line in event.get("logs") or []]
    print(f"the API grew by {grown / 1e6:.0f} MB")

    assert grown < MOST_GROWTH
    assert told[-1]["status"] == "COMPLETED"
    assert messages[0] == "Preparing"
    assert messages.count(LINE) == LINES
    assert messages.count("Step 4/4") == 1
    assert site.finish(request).status == 200
    assert scene.steps == [0, 1, 2, 3, 4]


def test_a_slow_reader_is_not_cut_while_it_takes_something(site, scene):
    """row 39: slow is no fault; only taking nothing is."""
    request, content = site.run(scene, step=2), bytearray()
    write(site, request, LINES // 2)
    scene.release()
    assert site.finish(request).status == 200
    with slow_stream(site, request, buffer=1 << 16) as reader:
        until = time.monotonic() + 2.5 * SEND_TIMEOUT_S
        while time.monotonic() < until:
            content += reader.recv(1 << 16)
            time.sleep(0.02)
        while received := reader.recv(1 << 20):
            content += received

    assert b'"COMPLETED"' in content
    assert content.count(LINE.encode()) >= LINES // 2 - 40  # chunked encoding may cut through some


def write(site: FaultSite, request: dict[str, Any], lines: int) -> None:
    """As its worker would, if its pipeline had that much to say."""
    assert site.queue.log(site.job(request), *(LogLine(time.time(), LINE) for _ in range(lines)))


@contextlib.contextmanager
def slow_stream(site: FaultSite, request: dict[str, Any], buffer: int) -> Iterator[socket.socket]:
    """The status stream with logs, over a socket that holds little of what is sent to it."""
    url, connection = urlsplit(request["status_url"]), site.anna.connect()
    host, port = site.server.wire.address.split(":")
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        reader.settimeout(PATIENCE_S)
        reader.connect((host, int(port)))
        connection.sock = reader
        headers = {"Connection": "close"}
        site.anna.send(connection, "GET", f"{url.path}/stream?logs=1", host=url.netloc, headers=headers)
        yield reader


def ends_of(process: psutil.Process, reader: socket.socket) -> list[int]:
    """The server's end of this connection, while it has one."""
    port = reader.getsockname()[1]
    return [one.fd for one in process.net_connections("tcp") if one.raddr and one.raddr.port == port]
