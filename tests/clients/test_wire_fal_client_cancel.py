"""fal's own Python client cancels and gives up: fal-protocol.md §2.5, §2.6, §10 statements 20 and 55-59."""


def test_cancel_while_waiting_and_while_running(program, tls_gate):
    """55, 56, 59."""
    answer = program(
        """
        running = fal_client.submit("test/gate", body)
        while not isinstance(running.status(), fal_client.InProgress):
            time.sleep(0.05)
        waiting = fal_client.submit("test/gate", body)
        for name, handle in (("running", running), ("waiting", waiting)):
            handle.cancel()
            *_, last = handle.iter_events()
            answer[name] = last.error_type
            try:
                handle.get()
            except fal_client.FalClientHTTPError as error:
                answer[name + "_result"] = [error.status_code, error.error_type]
        """,
        tls_gate.body,
    )

    assert answer == {
        "waiting": "client_cancelled",
        "waiting_result": [499, "client_cancelled"],
        "running": "client_cancelled",
        "running_result": [499, "client_cancelled"],
    }


def test_cancelling_what_is_done_raises_already_completed(program, pulid_input):
    """57."""
    answer = program(
        """
        handle = fal_client.submit("fal-ai/pulid", body)
        handle.get()
        try:
            handle.cancel()
        except fal_client.FalClientHTTPError as error:
            answer.update(status=error.status_code, message=json.loads(error.message))
        """,
        pulid_input,
    )

    assert answer == {"status": 400, "message": {"status": "ALREADY_COMPLETED"}}


def test_the_clients_own_timeout_cancels_the_request(program, tls_gate, tls_server):
    """61, for Python."""
    answer = program(
        """
        try:
            fal_client.subscribe("test/gate", body, client_timeout=3)
        except fal_client.FalClientTimeoutError as error:
            answer["id"] = error.request_id
        """,
        tls_gate.body,
    )

    tls_gate.wait_for_trace("stopped", 1, limit_s=10)
    status = tls_server.wire.get(f"/test/gate/requests/{answer['id']}/status")
    assert status.json["error_type"] == "client_cancelled"


def test_a_start_timeout_raises_504_and_is_not_tried_again(program, tls_gate):
    """20, §2.7."""
    tls_gate.occupy()
    answer = program(
        """
        try:
            fal_client.subscribe("test/gate", body, start_timeout=1.5)
        except fal_client.FalClientHTTPError as error:
            answer.update(status=error.status_code, type=error.error_type)
            answer["by"] = error.response_headers["x-fal-request-timeout-type"]
        """,
        tls_gate.body,
    )

    assert answer == {"status": 504, "type": "request_timeout", "by": "user"}
