"""Held status polls, on the wire: docs/decisions/0027-held-polls.md."""

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.conftest import PUBLISHED
from tests.server_process import ServerProcess
from tests.wire import Answer, Wire
from tests.wire_gate import Gate

HOLD_S = 1.5
AT_ONCE_S = 0.8
"""Far below the hold, far above what a loaded machine needs for an answer."""


@pytest.fixture(scope="module")
def holding(tmp_path_factory) -> Iterator[ServerProcess]:
    """A server that holds as long as it may, so that held and at once cannot be confused."""
    with ServerProcess(tmp_path_factory.mktemp("holding"), catalog=PUBLISHED, hold_status_ms=1500) as server:
        yield server


@pytest.fixture
def held_gate(holding, tmp_path) -> Iterator[Gate]:
    gate = Gate(holding.wire, tmp_path / "gate")
    yield gate
    gate.close()


def timed(wire: Wire, request: dict, query: str = "", **options) -> tuple[Answer, float]:
    began = time.monotonic()
    return wire.status(request, query, **options), time.monotonic() - began


def test_the_first_look_is_answered_at_once_and_the_next_one_waits_for_news(held_gate):
    """37: clients show "in queue" right after the submit; then nothing changes, and they need not ask ten times."""
    held_gate.run()
    waiting = held_gate.submit()
    held_gate.wire.wait_for(waiting, "IN_PROGRESS", "IN_QUEUE")
    request = held_gate.submit()
    first, first_s = timed(held_gate.wire, request)
    _, second_s = timed(held_gate.wire, request)

    assert first.json["status"] == "IN_QUEUE"
    assert first_s < AT_ONCE_S
    assert HOLD_S * 0.9 < second_s < HOLD_S + AT_ONCE_S


def test_a_held_poll_is_answered_when_the_request_is_completed(held_gate):
    """37."""
    request = held_gate.run()
    held_gate.wire.status(request)
    threading.Timer(0.3, held_gate.open).start()
    answer, seconds = timed(held_gate.wire, request)

    assert answer.json["status"] == "COMPLETED"
    assert 0.25 < seconds < 0.3 + AT_ONCE_S


def test_what_changed_between_two_polls_is_answered_at_once(held_gate):
    request = held_gate.run()
    held_gate.wire.status(request)
    held_gate.open()
    held_gate.wait_for_trace("finished", 1)
    time.sleep(0.5)
    answer, seconds = timed(held_gate.wire, request)

    assert answer.json["status"] == "COMPLETED"
    assert seconds < AT_ONCE_S


def test_a_completed_request_is_never_held(held_gate):
    request = held_gate.run()
    held_gate.open()
    held_gate.wire.wait_for(request, "COMPLETED")

    assert all(timed(held_gate.wire, request)[1] < AT_ONCE_S for _ in range(3))


def test_log_lines_are_news_to_those_who_asked_for_them_only(held_gate):
    """30, 32: the gate says a line every 50 ms."""
    request = held_gate.run()
    held_gate.wire.status(request)
    held_gate.wire.status(request, "?logs=1")
    with ThreadPoolExecutor() as pool:
        silent = pool.submit(timed, held_gate.wire, request, "?logs=0")
        talking, talking_s = timed(held_gate.wire, request, "?logs=1")

    assert talking.json["logs"]
    assert talking_s < HOLD_S * 0.9
    assert silent.result()[0].json["logs"] is None
    assert silent.result()[1] > HOLD_S * 0.9


def test_a_cancelled_request_is_news(held_gate):
    held_gate.occupy()
    request = held_gate.submit()
    held_gate.wire.status(request)
    threading.Timer(0.3, held_gate.wire.cancel, [request]).start()
    answer, seconds = timed(held_gate.wire, request)

    assert answer.json["error_type"] == "client_cancelled"
    assert seconds < 0.3 + AT_ONCE_S


def test_two_clients_of_one_request_are_told_apart(held_gate):
    """What one client was told is news to another one."""
    request = held_gate.run()
    held_gate.wire.status(request, headers={"User-Agent": "one"})
    _, seconds = timed(held_gate.wire, request, headers={"User-Agent": "two"})

    assert seconds < AT_ONCE_S


def test_nobody_waits_for_a_request_that_is_not_there(holding):
    """35."""
    nothing = {"status_url": f"http://queue.fal.run/fal-ai/pulid/requests/{uuid.uuid4()}/status"}
    answers = [timed(holding.wire, nothing) for _ in range(3)]

    assert {answer.status for answer, _ in answers} == {404}
    assert max(seconds for _, seconds in answers) < AT_ONCE_S


def test_many_held_polls_hold_no_thread(held_gate):
    """37: more polls than the server has threads are held, and it answers others meanwhile."""
    request = held_gate.run()
    path = urlsplit(held_gate.wire.status(request).json["status_url"]).path
    connections = [held_gate.wire.connect() for _ in range(80)]
    for connection in connections:
        held_gate.wire.send(connection, "GET", path)
    time.sleep(0.3)
    began = time.monotonic()
    assert held_gate.wire.get("/ready", host=None).status == 200
    assert time.monotonic() - began < AT_ONCE_S
    for connection in connections:
        connection.close()


def test_another_process_than_the_one_that_took_the_request_holds_as_well(held_gate, holding, tmp_path):
    """Several API processes share the queue, and each hears its news."""
    shared = f"sqlite:///{holding.data_dir / 'queue.db'}"
    settings = {"database_url": shared, "files_url": f"file://{holding.data_dir / 'files'}", "catalog": PUBLISHED}
    with ServerProcess(tmp_path, "api", hold_status_ms=1500, **settings) as other:
        request = held_gate.run()
        assert timed(other.wire, request)[1] < AT_ONCE_S
        threading.Timer(0.3, held_gate.open).start()
        answer, seconds = timed(other.wire, request)

        assert answer.json["status"] == "COMPLETED"
        assert seconds < 0.3 + AT_ONCE_S


def test_a_server_that_leaves_answers_the_held_polls(tmp_path):
    """108: nobody's connection is cut."""
    with ServerProcess(tmp_path, "api", catalog=PUBLISHED, hold_status_ms=1500) as server:
        request = server.wire.submit("test/gate", {"folder": str(tmp_path)})
        server.wire.status(request)
        with ThreadPoolExecutor() as pool:
            held = pool.submit(timed, server.wire, request)
            time.sleep(0.4)
            server.process.terminate()
            answer, seconds = held.result()

    assert answer.status == 202
    assert seconds < HOLD_S * 0.9


def test_without_a_hold_every_poll_is_answered_at_once(tmp_path):
    with ServerProcess(tmp_path, "api", catalog=PUBLISHED, hold_status_ms=0) as server:
        request = server.wire.submit("test/gate", {"folder": str(tmp_path)})

        assert max(timed(server.wire, request)[1] for _ in range(4)) < 0.35
