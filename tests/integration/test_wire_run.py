"""Synchronous run, stream and realtime, on the wire: fal-protocol.md §3, §10 statements 62, 64–66."""

import socket
import threading
import time
import uuid

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.pipelines.catalog import BROKEN
from tests.wire import QUEUE, RUN, Answer
from tests.wire_checks import assert_is_request_error, assert_is_validation_error

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_run_answers_the_output_and_a_request_id(wire, pulid_input):
    """62."""
    answer = wire.post("/fal-ai/pulid", pulid_input, host=RUN)

    assert answer.status == 200
    assert answer.content_type == "application/json"
    assert set(answer.json) == {"images", "seed"}
    assert uuid.UUID(answer.headers["x-fal-request-id"])


def test_run_works_with_a_sub_path_and_on_the_servers_own_address(wire, instantid_input):
    """3, 62: FAL_RUN_HOST=host:port."""
    answer = wire.post("/fal-ai/instantid/lcm", instantid_input, host=None)

    assert answer.status == 200
    assert set(answer.json) == {"image", "seed"}
    assert wire.follow(answer.json["image"]["url"]).status == 200


def test_the_queue_knows_a_run_by_its_request_id(wire, pulid_input):
    """62: a run is a request like any other."""
    ran = wire.post("/fal-ai/pulid", pulid_input, host=RUN)
    answer = wire.get(f"/fal-ai/pulid/requests/{ran.headers['x-fal-request-id']}", host=QUEUE)

    assert answer.status == 200
    assert answer.json["seed"] == ran.json["seed"]


def test_run_refuses_an_invalid_input_at_once(wire, gate, photo):
    """48: not behind the work of others."""
    gate.occupy()
    answer = wire.post("/fal-ai/pulid", {"reference_images": [{"image_url": photo}]}, host=RUN, timeout_s=5)

    assert_is_validation_error(answer, ["body", "prompt"], "missing")


def test_run_answers_500_for_a_pipeline_that_breaks_and_the_next_run_works(wire, pulid_input):
    """51, 52: 500, which no client sends again, and never 503."""
    answer = wire.post(f"/{BROKEN.id}", {"prompt": "x"}, host=RUN)

    assert answer.status == 500
    assert answer.content_type == "application/json"
    assert answer.json["detail"]
    assert answer.headers["x-fal-request-id"]
    assert wire.post("/fal-ai/pulid", pulid_input, host=RUN).status == 200


def test_a_run_that_could_not_start_in_time_is_504(wire, gate):
    """20: the user's own limit."""
    gate.occupy()
    answer = wire.post("/test/gate", gate.body, host=RUN, headers={"X-Fal-Request-Timeout": "1.2"})

    assert_is_request_error(answer, 504, "request_timeout")
    assert answer.headers["x-fal-request-timeout-type"] == "user"


def test_a_run_that_takes_long_is_not_cut(wire, gate):
    """64: in small, on the real server with its worker: longer than the usual limits of five seconds."""
    answers: list[Answer] = []
    run = threading.Thread(target=lambda: answers.append(wire.post("/test/gate", gate.body, host=RUN)))
    run.start()
    gate.wait_for_trace("started", 1)
    time.sleep(6)
    gate.open()
    run.join()

    assert answers[0].status == 200
    assert set(answers[0].json) == {"image", "seed"}


def test_a_run_whose_client_has_gone_stops(wire, gate, pulid_input):
    """63: row 37: at its next step."""
    connection = wire.connect()
    wire.send(connection, "POST", "/test/gate", gate.body, host=RUN)
    gate.wait_for_trace("started", 1)
    connection.close()

    gate.wait_for_trace("stopped", 1, limit_s=10)
    assert wire.post("/fal-ai/pulid", pulid_input, host=RUN).status == 200


@pytest.mark.parametrize("host", [RUN, None])
@pytest.mark.parametrize("path", ["/fal-ai/pulid/stream", "/fal-ai/instantid/lcm/stream", "/fal-ai/pulid/realtime"])
def test_stream_and_realtime_are_a_clean_404(wire, host, path, pulid_input):
    """65."""
    answer = wire.post(path, pulid_input, host=host, headers={"Accept": "text/event-stream"})

    assert answer.status == 404
    assert answer.content_type == "application/json"
    assert answer.json["detail"]


@pytest.mark.parametrize("host", [RUN, "ws.fal.run"])
@pytest.mark.parametrize("path", ["/fal-ai/pulid/realtime", "/fal-ai/instantid/lcm/realtime", "/fal-ai/pulid"])
def test_a_websocket_is_refused_and_does_not_hang(wire, host, path):
    """65."""
    answer = wire.get(path, host=host, headers=HANDSHAKE, timeout_s=5)

    assert (answer.status, answer.content_type) == (404, "application/json")
    assert "use subscribe, run, or the queue" in answer.json["detail"]


@pytest.mark.parametrize("host", [RUN, "ws.fal.run"])
def test_a_websocket_client_reads_why_it_is_refused(wire, host):
    """65: with a real WebSocket library, by both names."""
    address = f"ws://{host}/fal-ai/pulid/realtime?fal_jwt_token=x"
    with pytest.raises(InvalidStatus) as refused, socket.create_connection(wire.address.split(":")) as line:
        connect(address, sock=line, open_timeout=5, proxy=None)

    assert refused.value.response.status_code == 404
    assert b"not offered" in refused.value.response.body


@pytest.mark.parametrize("host", ["rest.fal.ai", "rest.alpha.fal.ai"])
@pytest.mark.parametrize("path", ["/tokens/", "/tokens"])
def test_realtime_tokens_are_not_offered(wire, host, path):
    """66, 8: there is no realtime here, so there are no tokens for it; no redirect."""
    answer = wire.post(path, {"allowed_apps": ["pulid"], "token_expiration": 120}, host=host)

    assert (answer.status, answer.content_type) == (404, "application/json")
    assert "use subscribe, run, or the queue" in answer.json["detail"]
