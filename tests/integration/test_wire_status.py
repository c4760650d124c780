"""Status, on the wire: fal-protocol.md §2.2, §10 statements 4–6 and 25–37."""

import re
import threading
import time

import pytest

from tests.wire import QUEUE

ALWAYS = {"status", "request_id", "response_url", "status_url", "cancel_url"}
RUNNING = ALWAYS | {"logs", "metrics"}
LEVELS = {"STDERR", "STDOUT", "ERROR", "INFO", "WARN", "DEBUG"}
YES, NO = ["?logs=1", "?logs=true", "?logs=True"], ["?logs=0", "?logs=false", "?logs=False", ""]


def test_a_waiting_request_is_202_with_its_position(wire, gate):
    """25, 33: and §0.1."""
    gate.occupy()
    request = gate.submit()
    answer = wire.status(request)

    assert answer.status == 202
    assert answer.content_type == "application/json"
    assert answer.json["status"] == "IN_QUEUE"
    assert answer.json["queue_position"] == 0
    assert ALWAYS | {"queue_position"} <= set(answer.json) <= RUNNING | {"queue_position"}


def test_the_status_names_the_same_urls_as_the_submit(wire, gate):
    """33."""
    request = gate.run()
    answer = wire.status(request)

    assert {name: answer.json[name] for name in ALWAYS - {"status"}} == {
        name: request[name] for name in ALWAYS - {"status"}
    }


def test_the_position_counts_the_requests_ahead_and_never_increases(wire, gate, next_gate):
    """26."""
    gate.occupy()
    first, second, third = gate.submit(), next_gate.submit(), next_gate.submit()

    assert [wire.status(each).json["queue_position"] for each in (first, second, third)] == [0, 1, 2]
    seen = [2]
    gate.open()
    next_gate.wait_for_trace("started", 1)
    while (answer := wire.status(third)).json["status"] == "IN_QUEUE" and seen[-1] > 0:
        seen.append(answer.json["queue_position"])
    assert seen == sorted(seen, reverse=True)


def test_a_running_request_is_202_with_the_key_logs(wire, gate):
    """27: and §0.2."""
    answer = wire.status(gate.run())

    assert answer.status == 202
    assert answer.json["status"] == "IN_PROGRESS"
    assert set(answer.json) == RUNNING
    assert answer.json["logs"] is None


def test_a_finished_request_is_200_with_logs_and_metrics(wire, pulid_input):
    """28, 29: and §0.1."""
    answer = wire.wait_for(wire.submit("fal-ai/pulid", pulid_input), "COMPLETED")

    assert answer.status == 200
    assert set(answer.json) == RUNNING
    assert isinstance(answer.json["metrics"]["inference_time"], float)
    assert 0 <= answer.json["metrics"]["inference_time"] < 30


def test_the_inference_time_counts_seconds_of_work_not_of_waiting(wire, gate, pulid_input):
    """29."""
    running = gate.run()
    waiting = wire.submit("fal-ai/pulid", pulid_input)
    time.sleep(1.0)
    gate.open()

    assert wire.wait_for(running, "COMPLETED").json["metrics"]["inference_time"] >= 1.0
    assert wire.wait_for(waiting, "COMPLETED").json["metrics"]["inference_time"] < 1.0


@pytest.mark.parametrize("query", YES)
def test_logs_are_an_array_when_asked_for(wire, gate, pulid_input, query):
    """30: and §0.3."""
    running, finished = gate.run(), wire.submit("fal-ai/pulid", pulid_input)

    assert isinstance(wire.status(running, query).json["logs"], list)
    gate.open()
    assert isinstance(wire.wait_for(finished, "COMPLETED", query=query).json["logs"], list)


@pytest.mark.parametrize("query", NO)
def test_logs_are_null_when_not_asked_for(wire, gate, pulid_input, query):
    """30."""
    running, finished = gate.run(), wire.submit("fal-ai/pulid", pulid_input)

    assert wire.status(running, query).json["logs"] is None
    gate.open()
    assert wire.wait_for(finished, "COMPLETED", query=query).json["logs"] is None


def test_log_entries_have_message_timestamp_level_and_source(wire, pulid_input):
    """31: and §2.2."""
    logs = wire.wait_for(wire.submit("fal-ai/pulid", pulid_input), "COMPLETED", query="?logs=1").json["logs"]

    assert logs
    for entry in logs:
        assert set(entry) == {"message", "timestamp", "level", "source", "labels"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", entry["timestamp"])
        assert entry["level"] in LEVELS
        assert entry["source"] == "USER"
        assert entry["message"]


def test_polled_logs_are_cumulative(wire, gate):
    """32."""
    request = gate.run()
    first = wire.status(request, "?logs=1").json["logs"]
    time.sleep(0.5)
    second = wire.status(request, "?logs=1").json["logs"]
    gate.open()
    last = wire.wait_for(request, "COMPLETED", query="?logs=1").json["logs"]

    assert second[: len(first)] == first
    assert last[: len(second)] == second
    assert len(last) > 0


def test_a_failed_request_is_completed_with_error_and_error_type(wire):
    """34."""
    answer = wire.wait_for(wire.submit("fal-ai/pulid", {}), "COMPLETED")

    assert answer.status == 200
    assert set(answer.json) == RUNNING | {"error", "error_type"}
    assert isinstance(answer.json["error"], str)
    assert isinstance(answer.json["error_type"], str)
    assert answer.json["error"]
    assert answer.json["error_type"]


@pytest.mark.parametrize("host", [QUEUE, None])
@pytest.mark.parametrize("tail", ["", "/", "/status", "/status/", "/status?logs=1", "/status/stream", "/response"])
@pytest.mark.parametrize("unknown", ["6f1f8dc4-8f0e-4d67-9a0e-0d8c7d6e2b11", "not-a-uuid", "%2e%2e%2fetc", "0" * 300])
def test_an_unknown_request_is_404_with_a_detail(wire, host, tail, unknown):
    """35."""
    prefix = "" if host else "/queue"
    answer = wire.get(f"{prefix}/fal-ai/pulid/requests/{unknown}{tail}", host=host)

    assert answer.status == 404
    assert answer.content_type == "application/json"
    assert answer.json["detail"]


def test_status_and_result_work_below_the_full_id_too(wire, instantid_input):
    """5: fal's published OpenAPI keeps the sub-path."""
    request = wire.submit("fal-ai/instantid/lcm", instantid_input)
    wire.finish(request)
    path = f"/fal-ai/instantid/lcm/requests/{request['request_id']}"

    assert wire.get(f"{path}/status").json["status"] == "COMPLETED"
    assert wire.get(path).body == wire.result(request).body
    assert wire.put(f"{path}/cancel").json["status"] == "ALREADY_COMPLETED"


def test_trailing_slashes_answer_without_a_redirect(wire, pulid_input):
    """6, 8."""
    request = wire.submit("fal-ai/pulid", pulid_input)
    result = wire.finish(request)

    assert wire.follow(request["status_url"] + "/").status == 200
    assert wire.follow(request["status_url"] + "/?logs=1").json["logs"]
    assert wire.follow(request["response_url"] + "/").body == result.body


def test_a_request_is_not_found_under_another_application(wire, pulid_input):
    """35: the id belongs to the application it was submitted to."""
    request = wire.submit("fal-ai/pulid", pulid_input)
    wire.finish(request)

    assert wire.get(f"/fal-ai/instantid/requests/{request['request_id']}/status").status == 404


def test_twenty_pollers_at_ten_hertz_are_all_answered_and_the_work_goes_on(wire, gate):
    """37, in small: clients poll every 100 ms, and none of them waits a second."""
    request = gate.run()
    slow: list[float] = []

    def poll() -> None:
        for _ in range(10):
            began = time.monotonic()
            assert wire.status(request, "?logs=true").status == 202
            slow.append(time.monotonic() - began)
            time.sleep(max(0.0, 0.1 - slow[-1]))

    pollers = [threading.Thread(target=poll) for _ in range(20)]
    for poller in pollers:
        poller.start()
    for poller in pollers:
        poller.join()

    assert len(slow) == 200
    assert max(slow) < 1.0
    gate.open()
    assert wire.finish(request).status == 200
