"""fal's own clients when the server is away: fal-protocol.md §2.7, §10 statements 108 and 109."""

import socket
import time
from collections.abc import Iterator

import pytest

from server.hosts import FAL_HOSTS
from tests.clients.client import CLIENTS, answer_of
from tests.clients.matrix import feature
from tests.clients.names import Names
from tests.conftest import PUBLISHED
from tests.server_process import ServerProcess
from tests.wire_gate import Gate

PATIENCE_S = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


@pytest.fixture(scope="module")
def survivors(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[dict]:
    """Client id -> its running program, which polls while everything is killed and comes back on the same address."""
    folder = tmp_path_factory.mktemp("restarted")
    old_ones, running = request.config.getoption("--all-clients", default=False), {}
    server = ServerProcess(
        folder, "serve", "--tls", catalog=PUBLISHED, port=free_port(), lease_s=3, heartbeat_s=1, max_attempts=5
    )
    with server:
        gate = Gate(server.wire, folder / "gate")
        names = Names(server.wire.address, server.ca_file, folder)
        given = {"endpoint": gate.endpoint, "input": gate.body}
        for client in CLIENTS:
            if "polls on after a restart" not in client.lacks and (old_ones or not client.old) and not client.missing:
                running[client.id] = client.start("subscribe", given, names.environment)
        wait_for_jobs(server, len(running))
        server.kill()
        gate.open()
    with server:
        yield running


def wait_for_jobs(server: ServerProcess, number: int) -> None:
    """Until that many requests are stored."""
    limit = time.monotonic() + PATIENCE_S
    while stored_jobs(server) < number:
        assert time.monotonic() < limit, f"{stored_jobs(server)} of {number} after {PATIENCE_S} s"
        time.sleep(0.05)


def stored_jobs(server: ServerProcess) -> float:
    lines = server.wire.get("/metrics", host=None).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("veraicon_jobs{"))


@feature("polls on after a restart")
def test_a_client_that_polls_outlives_a_kill_and_restart_of_the_server(client, survivors):
    """108: its job was running or waiting, and runs again."""
    client.require()
    answer = answer_of(survivors[client.id])

    assert answer["data"]["seed"] == 7
    assert answer["states"][-1].upper() == "COMPLETED"


@feature("fallback names when it is down")
@pytest.mark.parametrize(("call", "main"), [("run", "fal.run"), ("subscribe", "queue.fal.run")])
def test_a_client_asks_for_no_name_that_is_not_ours_when_the_server_is_down(client, tls_server, tmp_path, call, main):
    """109: it sends the key and the prompt to its fallback names, which are ours, too."""
    names = Names(f"127.0.0.1:{free_port()}", tls_server.ca_file, tmp_path)
    process = client.start(call, {"endpoint": "fal-ai/pulid", "input": {}}, names.environment)
    fallback = main.replace("fal.run", "falrun.com")
    limit = time.monotonic() + PATIENCE_S
    with process:
        while fallback not in names.asked:
            assert process.poll() is None
            assert time.monotonic() < limit, names.asked
            time.sleep(0.05)
        process.kill()

    assert names.asked == {main, fallback} <= set(FAL_HOSTS)
