"""Submit, on the wire: fal-protocol.md §2.1, §10 statements 2, 3, 9–24 and 107."""

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from tests.wire import QUEUE, RUN
from tests.wire_checks import assert_is_request_error, assert_is_validation_error
from tests.wire_receiver import Receiver

SUBMIT_KEYS = {
    "status",
    "request_id",
    "gateway_request_id",
    "response_url",
    "status_url",
    "cancel_url",
    "queue_position",
    "logs",
    "metrics",
}


@pytest.mark.parametrize("endpoint", ["fal-ai/pulid", "fal-ai/instantid/lcm"])
def test_both_published_ids_can_be_enqueued(wire, endpoint, pulid_input, instantid_input):
    """2, 11: 200 with the ids, the three URLs, the position and the state."""
    answer = wire.post(f"/{endpoint}", pulid_input if "pulid" in endpoint else instantid_input)

    assert answer.status == 200
    assert answer.content_type == "application/json"
    assert set(answer.json) == SUBMIT_KEYS
    assert answer.json["status"] == "IN_QUEUE"
    assert isinstance(answer.json["queue_position"], int)
    assert wire.finish(answer.json).status == 200


def test_request_ids_are_uuids_and_stand_in_the_header_too(wire, pulid_input):
    """12, 13."""
    answer = wire.post("/fal-ai/pulid", pulid_input)

    assert str(uuid.UUID(answer.json["request_id"])) == answer.json["request_id"]
    assert str(uuid.UUID(answer.json["gateway_request_id"])) == answer.json["gateway_request_id"]
    assert answer.headers["x-fal-request-id"] == answer.json["request_id"]


def test_urls_name_the_queue_host_and_drop_the_sub_path(wire, instantid_input):
    """4: status, result and cancel live at /owner/alias/requests, whatever the sub-path of the submit."""
    request = wire.submit("fal-ai/instantid/lcm", instantid_input)

    base = f"http://{QUEUE}/fal-ai/instantid/requests/{request['request_id']}"
    assert request["response_url"] == base
    assert request["status_url"] == f"{base}/status"
    assert request["cancel_url"] == f"{base}/cancel"


def test_urls_keep_the_callers_host_and_queue_prefix(wire, pulid_input):
    """9: what FAL_QUEUE_RUN_HOST=host:port/queue needs."""
    answer = wire.post("/queue/fal-ai/pulid", pulid_input, host=None)

    base = f"http://{wire.address}/queue/fal-ai/pulid/requests/{answer.json['request_id']}"
    assert answer.status == 200
    assert answer.json["response_url"] == base
    assert answer.json["status_url"] == f"{base}/status"
    assert answer.json["cancel_url"] == f"{base}/cancel"
    assert wire.finish(answer.json).status == 200


def test_the_same_path_enqueues_on_the_queue_host_and_runs_on_the_run_host(wire, pulid_input):
    """3."""
    enqueued = wire.post("/fal-ai/pulid", pulid_input, host=QUEUE)
    ran = wire.post("/fal-ai/pulid", pulid_input, host=RUN)

    assert enqueued.json["status"] == "IN_QUEUE"
    assert set(ran.json) == {"images", "seed"}


@pytest.mark.parametrize("host", [QUEUE, RUN])
@pytest.mark.parametrize("path", ["/fal-ai/pulid/x", "/fal-ai/nothing", "/somebody/else/entirely", "/pulid"])
def test_an_unknown_application_is_404_with_a_detail(wire, host, path, pulid_input):
    """2, 10."""
    answer = wire.post(path, pulid_input, host=host)

    assert answer.status == 404
    assert answer.content_type == "application/json"
    assert answer.json["detail"]


def test_an_invalid_input_is_accepted_and_fails_at_the_result(wire):
    """14, 48: submit does not validate; the 422 is the result."""
    request = wire.submit("fal-ai/pulid", {"reference_images": [], "num_images": 9})

    status = wire.wait_for(request, "COMPLETED")
    assert status.status == 200
    assert_is_validation_error(wire.result(request), ["body", "prompt"])


@pytest.mark.parametrize("host", [QUEUE, RUN])
@pytest.mark.parametrize("body", [b'{"prompt": ', b"prompt=x", b"", b"{'prompt': 1}", b"[" * 20_000])
def test_broken_json_is_refused_and_the_next_request_works(wire, host, body, pulid_input):
    """15."""
    answer = wire.post("/fal-ai/pulid", body, host=host)

    assert answer.status in {400, 422}
    assert answer.content_type == "application/json"
    assert answer.json["detail"]
    assert wire.post("/fal-ai/pulid", pulid_input, host=RUN).status == 200


@pytest.mark.parametrize("host", [QUEUE, RUN])
@pytest.mark.parametrize("body", [b"\x89PNG\r\n\x1a\n\x00\xff\xfe", bytes(range(256)) * 40])
def test_a_binary_body_is_422_in_valid_json(wire, host, body):
    """16."""
    answer = wire.post("/fal-ai/pulid", body, host=host, headers={"Content-Type": "application/octet-stream"})

    assert answer.status == 422
    assert answer.content_type == "application/json"
    assert answer.json["detail"]


@pytest.mark.parametrize("body", [[], "text", 3, None, {"prompt": ["no", {"text": None}]}])
def test_json_that_is_not_a_request_is_never_a_500(wire, body):
    """14, 15: refused at once or at the result, always as 4xx with a detail."""
    answer = wire.post("/fal-ai/pulid", json.dumps(body).encode())

    if answer.status == 200:
        answer = wire.finish(answer.json)
    assert answer.status in {400, 422}
    assert answer.json["detail"]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", '"\\ud800"', '"\\u0000"'])
def test_numbers_and_text_that_json_cannot_carry_are_named_and_answered_in_valid_json(wire, literal):
    """16, §2.9: what stands in `input` is made safe first."""
    body = f'{{"reference_images": [], "prompt": {literal}, "guidance_scale": {literal}}}'.encode()
    answer = wire.post("/fal-ai/pulid", body, host=RUN)

    assert answer.status in {400, 422}
    assert json.loads(answer.body, parse_constant=pytest.fail)["detail"]


def test_the_webhooks_url_arrives_with_its_own_query_string(wire, pulid_input):
    """17."""
    with Receiver() as receiver:
        target = f"{receiver.url}/hook?a=1&b=x%20y&c=%26"
        wire.finish(wire.submit("fal-ai/pulid", pulid_input, query=f"?fal_webhook={quote(target, safe='')}"))

        assert receiver.wait().path == "/hook?a=1&b=x%20y&c=%26"


def test_low_priority_starts_after_normal(wire, gate, next_gate):
    """18."""
    gate.occupy()
    low = gate.submit(x_fal_queue_priority="low")
    normal = next_gate.submit(x_fal_queue_priority="normal")

    assert wire.status(normal).json["queue_position"] == 0
    assert wire.status(low).json["queue_position"] == 1
    gate.open()
    next_gate.wait_for_trace("started", 1)
    assert len(gate.trace("started")) == 2


def test_other_priorities_are_tolerated(wire, pulid_input):
    """18."""
    request = wire.submit("fal-ai/pulid", pulid_input, x_fal_queue_priority="urgent!")

    assert wire.finish(request).status == 200


@pytest.mark.parametrize("timeout", ["1.5", "30.0", "30"])
def test_a_start_timeout_in_seconds_is_accepted(wire, timeout, pulid_input):
    """19."""
    request = wire.submit("fal-ai/pulid", pulid_input, x_fal_request_timeout=timeout)

    assert wire.finish(request).status == 200


@pytest.mark.parametrize("host", [QUEUE, RUN])
@pytest.mark.parametrize("timeout", ["soon", "1,5", "nan", "-1"])
def test_a_start_timeout_that_is_no_time_is_a_bad_request(wire, host, timeout, pulid_input):
    """19."""
    answer = wire.post("/fal-ai/pulid", pulid_input, host=host, headers={"X-Fal-Request-Timeout": timeout})

    assert_is_request_error(answer, 400, "bad_request")


def test_a_request_that_could_not_start_in_time_ends_as_504(wire, gate):
    """20: the user's own limit, which no client retries."""
    gate.occupy()
    late = gate.submit(x_fal_request_timeout="1.2")

    status = wire.wait_for(late, "COMPLETED")
    assert status.json["error_type"] == "request_timeout"
    result = wire.result(late)
    assert_is_request_error(result, 504, "request_timeout")
    assert result.headers["x-fal-request-timeout-type"] == "user"


def test_a_start_timeout_does_not_end_work_that_has_started(wire, gate):
    """20: it limits the time to start, nothing else."""
    started = gate.submit(x_fal_request_timeout="1.1")
    wire.wait_for(started, "IN_PROGRESS")
    time.sleep(1.5)

    assert wire.status(started).json["status"] == "IN_PROGRESS"
    gate.open()
    assert wire.finish(started).status == 200


def test_a_queue_longer_than_asked_for_is_429_and_enqueues_nothing(wire, gate):
    """21, 107."""
    gate.occupy()
    gate.submit()
    last = gate.submit()
    refused = wire.post("/test/gate?fal_max_queue_length=1", gate.body)
    admitted = wire.post("/test/gate?fal_max_queue_length=100", gate.body)

    assert refused.status == 429
    assert refused.json["detail"]
    assert "request_id" not in refused.json
    assert admitted.status == 200
    assert admitted.json["queue_position"] == wire.status(last).json["queue_position"] + 1
    gate.submitted.append(admitted.json)


def test_unknown_platform_headers_and_unknown_fields_are_ignored(wire, pulid_input):
    """22."""
    headers = {"x_fal_runner_hint": "a", "x_fal_no_retry": "1", "x_app_fal_disable_fallback": "true", "x_fal_new": "?"}
    request = wire.submit("fal-ai/pulid", pulid_input | {"sync_mode": True, "enable_safety_checker": False}, **headers)

    assert wire.finish(request).status == 200


def test_submit_answers_within_a_second_while_the_worker_is_busy(wire, gate):
    """24."""

    def seconds(_: int) -> float:
        began = time.monotonic()
        gate.submit()
        return time.monotonic() - began

    gate.occupy()
    with ThreadPoolExecutor(8) as clients:
        slowest = max(clients.map(seconds, range(32)))

    assert slowest < 1.0
