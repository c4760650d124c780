"""fal's own clients, unmodified, in processes of their own; fal's own host names lead to the server. Same program for
every client: tests/clients/js and tests/clients/py. fal-protocol.md §1, §2, §10."""

import pytest

from tests.clients.matrix import feature

PULID, INSTANTID = "fal-ai/pulid", "fal-ai/instantid/lcm"


@feature("subscribe, polling")
def test_subscribe_resolves_with_the_output_and_every_log_message(client, names, tls_server, pulid_input):
    """36, 45, 46: polled logs are lists in every update."""
    answer = client.run("subscribe", {"endpoint": PULID, "input": pulid_input}, names.environment)

    assert answer["data"]["seed"] == 1
    assert tls_server.wire.follow(answer["data"]["images"][0]["url"]).body.startswith(b"\x89PNG")
    assert any("1/4" in message for message in answer["messages"])
    assert answer["states"][-1].upper() == "COMPLETED"
    assert answer["enqueued"] == answer.get("requestId", answer["enqueued"])
    assert len(answer["enqueued"]) == 36
    assert "queue.fal.run" in names.asked


@feature("subscribe, streaming")
def test_subscribe_by_streaming_resolves_with_the_output_and_every_log_message(client, names, pulid_input):
    """39, 40, 42, 44."""
    answer = client.run("subscribe", {"endpoint": PULID, "input": pulid_input, "mode": "streaming"}, names.environment)

    assert answer["data"]["seed"] == 1
    assert answer["states"][-1] == "COMPLETED"
    assert sorted(set(answer["messages"])) == sorted(answer["messages"])
    assert any("1/4" in message for message in answer["messages"])


@feature("run")
def test_run_resolves_with_the_output(client, names, instantid_input):
    """3, 62."""
    answer = client.run("run", {"endpoint": INSTANTID, "input": instantid_input}, names.environment)

    assert set(answer["data"]) == {"image", "seed"}
    assert "requestId" not in answer or client.id == "js-1.2.3" or len(answer["requestId"]) == 36
    assert names.asked - {"rest.alpha.fal.ai"} == {"fal.run"}  # the oldest one uploads data URIs


@feature("submit, status, result")
def test_submit_status_and_result_go_by_the_id_alone(client, names, instantid_input):
    """4, 28, 29, 31: clients drop the sub-path by themselves."""
    answer = client.run("submit", {"endpoint": INSTANTID, "input": instantid_input}, names.environment)

    assert set(answer["data"]) == {"image", "seed"}
    assert answer["inferenceTime"] >= 0
    assert {"message", "timestamp", "level", "source"} <= set(answer["logs"][0])
    assert names.asked - {"rest.alpha.fal.ai"} == {"queue.fal.run"}


@feature("asynchronous client")
def test_the_asynchronous_client_works(client, names, pulid_input):
    """8: it follows no redirect."""
    answer = client.run("subscribe_async", {"endpoint": PULID, "input": pulid_input}, names.environment)

    assert answer["data"]["seed"] == 1


@feature("data URI")
def test_a_data_uri_is_the_picture(client, names, instantid_input):
    """78."""
    answer = client.run("subscribe", {"endpoint": INSTANTID, "input": instantid_input}, names.environment)

    assert (answer["data"]["image"]["width"], answer["data"]["image"]["height"]) == (96, 64)


@feature("priority")
def test_low_priority_is_accepted(client, names, pulid_input):
    """18: that low ones wait for normal ones is proven at the wire."""
    answer = client.run("submit", {"endpoint": PULID, "input": pulid_input, "priority": "low"}, names.environment)

    assert answer["data"]["seed"] == 1


@feature("validation error")
@pytest.mark.parametrize("call", ["run", "subscribe"])
def test_a_missing_field_is_the_clients_own_validation_error(client, names, call, pulid_input):
    """48, 49, 50."""
    without_prompt = {name: value for name, value in pulid_input.items() if name != "prompt"}
    error = client.run(call, {"endpoint": PULID, "input": without_prompt}, names.environment)

    assert error["detail"][0]["loc"] == ["body", "prompt"]
    if client.javascript:
        assert (error["name"], error["status"]) == ("ValidationError", 422)
        assert error["prompt"][0]["type"] == "missing"
    elif client.id == "py-1.0.3":
        assert (error["name"], error["status"]) == ("FalClientHTTPError", 422)


@feature("error of the pipeline")
def test_a_bug_in_a_pipeline_is_one_error_that_is_not_sent_again(client, names):
    """54: JavaScript would have sent 502 to 504 again."""
    error = client.run("subscribe", {"endpoint": "test/broken", "input": {"prompt": "x"}}, names.environment)

    assert error["detail"][0]["type"] == "internal_server_error"
    assert "secret" not in str(error)
    if client.javascript:
        assert (error["name"], error["status"], error["message"]) == ("ApiError", 500, "Internal Server Error")
    elif client.id == "py-1.0.3":
        assert (error["name"], error["status"]) == ("FalClientHTTPError", 500)


@feature("infrastructure error")
def test_a_request_that_somebody_cancelled_is_an_error_with_text_and_type(client, names, tls_gate):
    """51, 59."""
    request = tls_gate.run()
    tls_gate.wire.cancel(request)
    tls_gate.wire.wait_for(request, "COMPLETED")
    error = client.run("result", {"endpoint": tls_gate.endpoint, "id": request["request_id"]}, names.environment)

    assert isinstance(error["detail"], str)
    if client.javascript:
        assert (error["name"], error["status"], error["errorType"]) == ("ApiError", 499, "client_cancelled")
    elif client.id == "py-1.0.3":
        assert (error["status"], error["errorType"]) == (499, "client_cancelled")


@feature("cancel")
def test_cancel_stops_a_running_request_and_a_second_one_is_an_error(client, names, tls_gate):
    """56, 57, 59, 60."""
    answer = client.run("cancel", {"endpoint": tls_gate.endpoint, "input": tls_gate.body}, names.environment)

    assert len(tls_gate.wait_for_trace("stopped", 1)) == 1
    assert answer["again"]
    if client.javascript or client.id == "py-1.0.3":
        assert answer["errorType"] == "client_cancelled"


@feature("timeout cancels")
def test_a_subscribe_that_times_out_cancels_its_request(client, names, tls_gate):
    """61."""
    limit = {"timeout": 3000} if client.javascript else {"client_timeout": 3}
    error = client.run("subscribe", {"endpoint": tls_gate.endpoint, "input": tls_gate.body, **limit}, names.environment)

    assert error["name"] in {"Error", "FalClientTimeoutError"}
    assert len(tls_gate.wait_for_trace("stopped", 1)) == 1
    assert not tls_gate.trace("finished")
