"""The real fal-client (Python), unmodified, over TLS, in a process of its own, against a real server."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fal_client
import pytest

from tests.clients.connect_proxy import ConnectProxy
from tests.server_process import ServerProcess

Program = Callable[..., Any]

START = "import asyncio, json, sys, fal_client; given = json.load(sys.stdin); logs = []\n"
ENDPOINTS = pytest.mark.parametrize("endpoint", ["fal-ai/pulid", "fal-ai/instantid/lcm"])
SUBSCRIBE = """
def on_update(update):
    if isinstance(update, fal_client.InProgress):
        logs.extend(line["message"] for line in update.logs)
answer = fal_client.subscribe(given["endpoint"], given["input"], with_logs=True, on_queue_update=on_update)
print(json.dumps(answer))
"""


def run_program(environment: dict[str, str], program: str, given: Any) -> Any:
    """What a program that uses fal_client prints as JSON. Nothing but its environment names our server."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FAL_", "VERAICON_"))}
    done = subprocess.run(
        [sys.executable, "-c", START + program],
        input=json.dumps(given),
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def by_variable(tls_server: ServerProcess) -> Program:
    """The operator sets FAL_RUN_HOST and FAL_QUEUE_RUN_HOST, as in fal-protocol.md §1.4."""
    address = tls_server.wire.address
    environment = {
        "FAL_RUN_HOST": address,
        "FAL_QUEUE_RUN_HOST": f"{address}/queue",
        "SSL_CERT_FILE": str(tls_server.ca_file),
        "FAL_KEY": "any",
    }
    return lambda program, given=None: run_program(environment, program, given)


@pytest.fixture
def proxy(tls_server: ServerProcess) -> Iterator[ConnectProxy]:
    with ConnectProxy(tls_server.wire.address) as proxy:
        yield proxy


@pytest.fixture
def by_name(tls_server: ServerProcess, proxy: ConnectProxy) -> Program:
    """The program knows only fal's own names; they lead to our server."""
    environment = {"HTTPS_PROXY": proxy.url, "NO_PROXY": "", "SSL_CERT_FILE": str(tls_server.ca_file), "FAL_KEY": "any"}
    return lambda program, given=None: run_program(environment, program, given)


@pytest.fixture
def inputs(pulid_input: dict[str, Any], instantid_input: dict[str, Any]) -> dict[str, Any]:
    return {"fal-ai/pulid": pulid_input, "fal-ai/instantid/lcm": instantid_input}


def given(endpoint: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {"endpoint": endpoint, "input": inputs[endpoint]}


def pictures(output: dict[str, Any]) -> list[dict[str, Any]]:
    return output.get("images") or [output["image"]]


def test_the_client_under_test_is_the_pinned_one():
    assert fal_client.__version__ == "1.0.3"


@ENDPOINTS
def test_subscribe_works_when_variables_name_the_server(by_variable, tls_server, inputs, endpoint):
    output = by_variable(SUBSCRIBE, given(endpoint, inputs))

    assert output["seed"] == 1
    assert all(picture["url"].startswith(f"{tls_server.url}/files/") for picture in pictures(output))
    assert tls_server.wire.follow(pictures(output)[0]["url"]).body.startswith(b"\x89PNG")


@ENDPOINTS
def test_subscribe_works_when_dns_names_the_server(by_name, proxy, inputs, endpoint):
    output = by_name(SUBSCRIBE, given(endpoint, inputs))

    assert output["seed"] == 1
    assert all(picture["url"].startswith("https://queue.fal.run/files/") for picture in pictures(output))
    assert set(proxy.names) == {"queue.fal.run"}


def test_run_submit_status_result_and_handles_agree(by_name, inputs):
    program = """
ran = fal_client.run(given["endpoint"], given["input"])
handle = fal_client.submit(given["endpoint"], given["input"])
events = [type(event).__name__ for event in handle.iter_events(with_logs=True, interval=0.05)]
same = fal_client.SyncClient().get_handle(given["endpoint"], handle.request_id)
print(json.dumps([ran["seed"], handle.get()["seed"], same.get()["seed"], events, handle.request_id]))
"""
    ran, submitted, again, events, request_id = by_name(program, given("fal-ai/instantid/lcm", inputs))

    assert ran == submitted == again == 1
    assert events[-1] == "Completed"
    assert len(request_id) == 36


def test_the_asynchronous_client_works(by_name, inputs):
    program = """
async def main():
    return await fal_client.subscribe_async(given["endpoint"], given["input"], with_logs=True)
print(json.dumps(asyncio.run(main())))
"""
    assert by_name(program, given("fal-ai/pulid", inputs))["seed"] == 1


def test_fifty_clients_at_once_all_get_their_own_result(by_name, inputs):
    program = """
async def one(seed):
    return (await fal_client.subscribe_async(given["endpoint"], given["input"] | {"seed": seed}))["seed"]
async def main():
    return await asyncio.gather(*map(one, range(50)))
print(json.dumps(asyncio.run(main())))
"""
    assert by_name(program, given("fal-ai/pulid", inputs)) == list(range(50))


def test_logs_reach_the_client(by_variable, inputs):
    program = (
        SUBSCRIBE.replace("print(json.dumps(answer))", "")
        + """
handle = fal_client.submit(given["endpoint"], given["input"])
handle.get()
print(json.dumps([line["message"] for line in handle.status(with_logs=True).logs]))
"""
    )
    assert any("1/" in message for message in by_variable(program, given("fal-ai/pulid", inputs)))


@pytest.mark.parametrize("call", ["run", "subscribe"])
def test_an_invalid_input_is_the_clients_own_error_with_the_list(by_variable, call):
    """50."""
    program = f"""
try:
    fal_client.{call}("fal-ai/pulid", {{"prompt": "x"}})
except fal_client.FalClientHTTPError as error:
    print(json.dumps([error.status_code, error.message, error.response.headers["x-fal-request-id"]]))
"""
    status, message, request_id = by_variable(program)

    assert status == 422
    assert message[0]["loc"] == ["body", "reference_images"]
    assert len(request_id) == 36


def test_cancelling_a_finished_request_raises_and_an_unknown_application_too(by_variable, inputs):
    program = """
handle = fal_client.submit(given["endpoint"], given["input"])
handle.get()
errors = []
for call in (handle.cancel, lambda: fal_client.submit("fal-ai/nothing", {})):
    try:
        call()
    except fal_client.FalClientHTTPError as error:
        errors.append([error.status_code, error.message])
print(json.dumps(errors))
"""
    (first, message), (second, detail) = by_variable(program, given("fal-ai/pulid", inputs))

    assert (first, second) == (400, 404)
    assert "ALREADY_COMPLETED" in message
    assert detail == "Application 'fal-ai/nothing' not found"


def test_a_small_upload_arrives_and_can_be_the_input(by_name, proxy, inputs, tmp_path):
    """72, 73: rest.fal.ai and v3.fal.media are constants in the client."""
    face = tmp_path / "face.png"
    face.write_bytes((Path(__file__).parents[1] / "data" / "coffee.png").read_bytes())
    program = """
url = fal_client.upload_file(given["face"])
answer = fal_client.subscribe(given["endpoint"], given["input"] | {"face_image_url": url})
print(json.dumps([url, answer["seed"]]))
"""
    url, seed = by_name(program, given("fal-ai/instantid/lcm", inputs) | {"face": str(face)})

    assert url.startswith("https://v3.fal.media/files/")
    assert seed == 1
    assert {"rest.fal.ai", "v3.fal.media", "queue.fal.run"} <= set(proxy.names)


@pytest.mark.slow
def test_a_large_upload_arrives_whole_in_parallel_parts(by_name, tls_server, tmp_path):
    """74: above 100 MiB the client sends parts of 10 MiB, ten at a time."""
    large = tmp_path / "large.bin"
    content = os.urandom(2**20) * 101
    large.write_bytes(content)
    url = by_name("print(json.dumps(fal_client.upload_file(given)))", str(large))

    assert tls_server.wire.follow(url).body == content
