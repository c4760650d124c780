"""fal's own Python client, 1.0.3 and unmodified, in a process of its own: fal-protocol.md §1.4, §2.6–2.8, §10
statements 9, 25–34, 45, 50, 55–59, 62, 65 and 78."""

import time

import pytest


def test_subscribe_returns_the_output_and_prints_every_log_message(program, pulid_input):
    """36, 45: the published snippet."""
    answer = program(
        """
        answer["states"], answer["messages"] = [], []
        def on_update(update):
            answer["states"].append(type(update).__name__)
            if isinstance(update, (fal_client.InProgress, fal_client.Completed)):
                answer["messages"] = [log["message"] for log in update.logs]
        answer["data"] = fal_client.subscribe(
            "fal-ai/pulid", body, with_logs=True, on_queue_update=on_update, on_enqueue=lambda id: answer.update(id=id)
        )
        """,
        pulid_input,
    )

    assert set(answer["data"]) == {"images", "seed"}
    assert answer["states"][-1] == "Completed"
    assert answer["messages"]
    assert answer["id"]


def test_the_handles_urls_lead_back_to_the_host_and_prefix_of_the_environment(program, pulid_input):
    """9: the client follows them verbatim."""
    answer = program(
        """
        handle = fal_client.submit("fal-ai/instantid/lcm", body)
        answer.update(status=handle.status_url, response=handle.response_url, cancel=handle.cancel_url)
        answer["id"] = handle.request_id
        answer["error"] = str(handle.get() and "")
        """,
        {"face_image_url": pulid_input["reference_images"][0]["image_url"], "prompt": "man"},
    )

    base = f"https://{program.address}/queue/fal-ai/instantid/requests/{answer['id']}"
    assert answer["response"] == base
    assert answer["status"] == f"{base}/status"
    assert answer["cancel"] == f"{base}/cancel"


def test_a_handle_made_from_an_id_finds_the_request(program, pulid_input):
    """4: the client drops the sub-path by itself."""
    answer = program(
        """
        id = fal_client.submit("fal-ai/instantid/lcm", body).request_id
        answer["data"] = fal_client.result("fal-ai/instantid/lcm", id)
        status = fal_client.status("fal-ai/instantid/lcm", id, with_logs=True)
        answer.update(status=type(status).__name__, metrics=status.metrics, logs=status.logs)
        """,
        {"face_image_url": pulid_input["reference_images"][0]["image_url"], "prompt": "man"},
    )

    assert set(answer["data"]) == {"image", "seed"}
    assert answer["status"] == "Completed"
    assert answer["metrics"]["inference_time"] >= 0
    assert isinstance(answer["logs"], list)


def test_run_returns_the_output_and_the_picture_can_be_fetched(program, pulid_input):
    """62, 78: a data URI in, a URL out."""
    answer = program(
        """
        import httpx
        answer["data"] = fal_client.run("fal-ai/pulid", body)
        answer["picture"] = httpx.get(answer["data"]["images"][0]["url"]).content[:4].hex()
        """,
        pulid_input,
    )

    assert set(answer["data"]) == {"images", "seed"}
    assert bytes.fromhex(answer["picture"]) == b"\x89PNG"


def test_the_asynchronous_client_works_too(program, pulid_input):
    """8: it follows no redirect."""
    answer = program(
        """
        import asyncio
        async def main():
            answer["run"] = await fal_client.run_async("fal-ai/pulid", body)
            answer["subscribe"] = await fal_client.subscribe_async("fal-ai/pulid", body)
        asyncio.run(main())
        """,
        pulid_input,
    )

    assert set(answer["run"]) == set(answer["subscribe"]) == {"images", "seed"}


def test_all_three_states_are_understood(program, tls_gate):
    """0.2, 25, 27, 28."""
    tls_gate.occupy()
    answer = program(
        """
        from pathlib import Path
        handle = fal_client.submit("test/gate", body)
        answer["position"] = handle.status().position
        answer["states"] = []
        Path(body["folder"], "open").touch()
        for event in handle.iter_events(with_logs=True):
            answer["states"].append(type(event).__name__)
        answer["logs"] = event.logs
        answer["error"] = event.error
        """,
        tls_gate.body,
    )

    assert answer["position"] == 0
    assert answer["states"][-1] == "Completed"
    assert isinstance(answer["logs"], list)
    assert answer["error"] is None


@pytest.mark.parametrize("call", ["fal_client.run(*what)", "fal_client.subscribe(*what)"])
def test_an_invalid_input_raises_422_with_the_list_of_errors(program, call):
    """50: by run and by queue."""
    answer = program(
        f"""
        what = ("fal-ai/pulid", body)
        try:
            {call}
        except fal_client.FalClientHTTPError as error:
            answer.update(status=error.status_code, message=error.message)
        """,
        {"reference_images": []},
    )

    assert answer["status"] == 422
    assert ["body", "prompt"] in [error["loc"] for error in answer["message"]]


@pytest.mark.parametrize(
    ("endpoint", "body", "status"), [("fal-ai/nothing", {}, 404), ("test/broken", {"prompt": "x"}, 500)]
)
def test_other_failures_raise_at_once(program, endpoint, body, status):
    """10, 51, §2.7: not sent again ten times."""
    began = time.monotonic()
    answer = program(
        f"""
        try:
            fal_client.subscribe("{endpoint}", body)
        except fal_client.FalClientHTTPError as error:
            answer.update(status=error.status_code, message=error.message)
        """,
        body,
    )

    assert answer["status"] == status
    assert answer["message"]
    assert time.monotonic() - began < 10


def test_priority_hint_and_unknown_arguments_are_accepted(program, pulid_input):
    """18, 22."""
    answer = program(
        """
        answer["data"] = fal_client.subscribe("fal-ai/pulid", body | {"new": 1}, priority="low", hint="warm")
        """,
        pulid_input,
    )

    assert set(answer["data"]) == {"images", "seed"}


def test_stream_ends_with_an_error_and_does_not_hang(program, pulid_input):
    """65: neither model streams."""
    answer = program(
        """
        try:
            list(fal_client.stream("fal-ai/pulid", body))
        except Exception as error:
            answer["error"] = type(error).__name__
        """,
        pulid_input,
    )

    assert answer["error"]


@pytest.mark.parametrize(
    "encode", ["encode_file('scripts/data/astronaut.png')", "encode(open(PHOTO, 'rb').read(), 'image/png')"]
)
def test_what_the_client_encodes_is_read(program, encode):
    """78, §4.2."""
    answer = program(
        f"""
        PHOTO = "scripts/data/astronaut.png"
        body["face_image_url"] = fal_client.{encode}
        answer["data"] = fal_client.subscribe("fal-ai/instantid/lcm", body)
        """,
        {"prompt": "man"},
    )

    assert answer["data"]["image"]["width"] == answer["data"]["image"]["height"] == 512
