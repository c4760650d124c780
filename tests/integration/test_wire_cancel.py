"""Cancel, on the wire: fal-protocol.md §2.5, §10 statements 55–60."""

import time
import uuid

from tests.wire_checks import assert_is_request_error


def test_a_waiting_request_is_cancelled_and_never_runs(wire, gate, next_gate):
    """55, 59."""
    gate.occupy()
    request = next_gate.submit()
    answer = wire.cancel(request)
    gate.open()
    status = wire.wait_for(request, "COMPLETED")

    assert (answer.status, answer.json) in [(202, {"status": "CANCELLATION_REQUESTED"}), (200, {"status": "OK"})]
    assert status.status == 200
    assert status.json["error_type"] == "client_cancelled"
    assert status.json["error"]
    assert next_gate.trace("started") == []


def test_a_request_that_is_prepared_ahead_is_cancelled_and_never_runs(wire, gate, next_gate):
    """55: the worker has taken it and has not begun; it must not wait for the work before it."""
    running = gate.run()
    request = next_gate.submit()
    wire.wait_for(request, "IN_PROGRESS")
    answer = wire.cancel(request)

    assert (answer.status, answer.json) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert wire.wait_for(request, "COMPLETED", limit_s=5).json["error_type"] == "client_cancelled"
    assert wire.status(running).json["status"] == "IN_PROGRESS"
    assert next_gate.trace("started") == []


def test_running_work_stops_and_the_worker_is_free(wire, gate, pulid_input):
    """56, 59."""
    request = gate.run()
    answer = wire.cancel(request)
    began = time.monotonic()
    gate.wait_for_trace("stopped", 1, limit_s=5)
    stopped_s = time.monotonic() - began

    assert (answer.status, answer.json) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert stopped_s < 3
    assert wire.wait_for(request, "COMPLETED").json["error_type"] == "client_cancelled"
    assert gate.trace("finished") == []
    assert wire.finish(wire.submit("fal-ai/pulid", pulid_input)).status == 200


def test_the_result_of_a_cancelled_request_is_499(wire, gate):
    """59, §2.5."""
    request = gate.run()
    wire.cancel(request)

    assert_is_request_error(wire.finish(request), 499, "client_cancelled")


def test_finished_work_cannot_be_cancelled(wire, pulid_input):
    """57."""
    request = wire.submit("fal-ai/pulid", pulid_input)
    result = wire.finish(request)
    answer = wire.cancel(request)

    assert (answer.status, answer.json) == (400, {"status": "ALREADY_COMPLETED"})
    assert answer.content_type == "application/json"
    assert wire.result(request).body == result.body


def test_failed_work_cannot_be_cancelled(wire):
    """57."""
    request = wire.submit("fal-ai/pulid", {})
    wire.finish(request)
    answer = wire.cancel(request)

    assert (answer.status, answer.json) == (400, {"status": "ALREADY_COMPLETED"})


def test_an_unknown_request_cannot_be_cancelled(wire):
    """58."""
    answer = wire.put(f"/fal-ai/pulid/requests/{uuid.uuid4()}/cancel")

    assert answer.status == 404
    assert answer.json["status"] == "NOT_FOUND"
    assert answer.content_type == "application/json"


def test_cancelling_twice_is_harmless(wire, gate, next_gate):
    """55, 57: the second time it is over, or still stopping."""
    gate.occupy()
    request = next_gate.submit()
    wire.cancel(request)
    again = wire.cancel(request)

    assert again.json["status"] in {"ALREADY_COMPLETED", "CANCELLATION_REQUESTED"}
    assert again.status == (400 if again.json["status"] == "ALREADY_COMPLETED" else 202)


def test_cancel_needs_no_body_whatever_its_content_type(wire, gate):
    """60: with an empty JSON body, as JS sends it, and with one."""
    gate.occupy()
    bare, full = gate.submit(), gate.submit()

    assert wire.cancel(bare).status == 202
    assert wire.cancel(full, body={}).status == 202


def test_others_in_the_queue_are_not_touched(wire, gate, pulid_input):
    """55."""
    gate.occupy()
    cancelled = gate.submit()
    other = wire.submit("fal-ai/pulid", pulid_input)
    wire.cancel(cancelled)
    position = wire.status(other).json["queue_position"]
    gate.open()

    assert position == 0
    assert wire.finish(other).status == 200
