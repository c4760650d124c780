"""The status stream, on the wire: fal-protocol.md §2.3, §10 statements 38–43."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.wire import Wire


@contextmanager
def open_stream(wire: Wire, request: dict[str, Any], query: str = "?logs=1") -> Iterator[HTTPResponse]:
    url = urlsplit(request["status_url"])
    connection = wire.connect()
    try:
        wire.send(connection, "GET", f"{url.path}/stream{query}", host=url.netloc)
        yield connection.getresponse()
    finally:
        connection.close()


def events_of(text: str) -> list[dict[str, Any]]:
    """Every event of a whole stream; anything but `data:` lines, comments and blank lines is an error."""
    blocks = [block for block in text.split("\n\n") if block]
    data = [block for block in blocks if not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in data), text
    return [json.loads(block.removeprefix("data: ")) for block in data]


def test_the_stream_is_event_stream_whatever_the_client_accepts(wire, gate):
    """38: fal's proxy rewrites Accept to application/json."""
    request = gate.run()
    with open_stream(wire, request) as response:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-fal-request-id"] == request["request_id"]


def test_every_event_is_one_line_of_status_and_the_last_is_completed(wire, gate):
    """39, 42: the connection closes after it."""
    gate.occupy()
    request = gate.submit()
    threading.Timer(0.5, gate.open).start()
    with open_stream(wire, request) as response:
        text = response.read().decode()

    assert text.endswith("\n\n")
    events = events_of(text)
    states = [event["status"] for event in events]
    assert states[0] == "IN_QUEUE"
    assert states[-1] == "COMPLETED"
    assert states.count("COMPLETED") == 1
    assert events[-1].keys() == wire.status(request, "?logs=1").json.keys()
    assert all(event["request_id"] == request["request_id"] for event in events)
    assert all("queue_position" in event for event in events if event["status"] == "IN_QUEUE")
    assert all(isinstance(event["logs"], list) for event in events if event["status"] != "IN_QUEUE")


def test_events_carry_only_new_log_lines(wire, gate):
    """40: JS adds them up itself."""
    request = gate.run()
    threading.Timer(1.0, gate.open).start()
    with open_stream(wire, request) as response:
        events = events_of(response.read().decode())

    streamed = [line for event in events for line in event["logs"] or []]
    assert streamed == wire.status(request, "?logs=1").json["logs"]
    assert len(events) > 1


@pytest.mark.parametrize("query", ["", "?logs=0", "?logs=false"])
def test_a_stream_without_logs_has_none(wire, gate, query):
    """30."""
    request = gate.run()
    threading.Timer(0.3, gate.open).start()
    with open_stream(wire, request, query) as response:
        events = events_of(response.read().decode())

    assert [event["logs"] for event in events] == [None] * len(events)


@pytest.mark.slow
def test_a_comment_keeps_the_connection_alive_every_fifteen_seconds(wire, gate):
    """41: behind the work of another, when nothing changes."""
    gate.occupy()
    waiting = gate.submit()
    with open_stream(wire, waiting) as response:
        began = time.monotonic()
        while not response.fp.readline().startswith(b":"):
            assert time.monotonic() - began < 16
        assert time.monotonic() - began < 16


def test_a_finished_request_is_one_event(wire, pulid_input):
    """43."""
    request = wire.submit("fal-ai/pulid", pulid_input)
    wire.finish(request)
    with open_stream(wire, request) as response:
        events = events_of(response.read().decode())

    assert [event["status"] for event in events] == ["COMPLETED"]
    assert events[0]["logs"] == wire.status(request, "?logs=1").json["logs"]


def test_the_stream_of_a_cancelled_request_ends(wire, gate):
    """42, 59."""
    request = gate.run()
    threading.Timer(0.3, wire.cancel, [request]).start()
    with open_stream(wire, request) as response:
        last = events_of(response.read().decode())[-1]

    assert last["status"] == "COMPLETED"
    assert last["error_type"] == "client_cancelled"


def test_work_goes_on_when_the_listener_leaves(wire, gate):
    """§2.3: only a run belongs to its connection."""
    request = gate.run()
    with open_stream(wire, request) as response:
        response.fp.readline()
    time.sleep(0.5)
    gate.open()

    assert wire.finish(request).status == 200


def test_the_stream_works_below_the_full_id_and_with_a_slash(wire, instantid_input):
    """5, 6."""
    request = wire.submit("fal-ai/instantid/lcm", instantid_input)
    wire.finish(request)
    for path in ("/fal-ai/instantid/lcm/requests/{}/status/stream", "/fal-ai/instantid/requests/{}/status/stream/"):
        answer = wire.get(path.format(request["request_id"]))

        assert answer.status == 200
        assert events_of(answer.body.decode())[-1]["status"] == "COMPLETED"
