"""What the tests of fal's clients share: a user's program in a process of its own, a gate behind TLS, and the table."""

import json
import subprocess
import sys
import textwrap
from collections import Counter
from typing import Any

import pytest

from tests.clients.matrix import table
from tests.clients.names import Names
from tests.server_process import environment
from tests.wire_gate import Gate

BEFORE = "import fal_client, json, sys, time\nbody = json.loads(sys.argv[1])\nanswer = {}\n"
AFTER = "\nprint(json.dumps(answer))\n"
OUTCOMES = pytest.StashKey[dict[tuple[str, str], str]]()
NOT_RUN = pytest.StashKey[Counter[str]]()


class Program:
    """Runs Python text as a user's program: only four environment variables point it at the server."""

    def __init__(self, server) -> None:
        self.address = server.wire.address
        self.folder = server.data_dir
        self.variables = {
            "FAL_RUN_HOST": self.address,
            "FAL_QUEUE_RUN_HOST": f"{self.address}/queue",
            "FAL_KEY": "any:key",
            "SSL_CERT_FILE": str(server.ca_file),
        }

    def __call__(self, text: str, body: Any, timeout_s: float = 60) -> dict[str, Any]:
        """`body` is there as `body`; what the text puts into `answer` is returned."""
        done = subprocess.run(
            [sys.executable, "-c", BEFORE + textwrap.dedent(text) + AFTER, json.dumps(body)],
            env=environment(self.folder) | self.variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def program(tls_server) -> Program:
    return Program(tls_server)


@pytest.fixture
def names(tls_server, tmp_path) -> Names:
    """fal's own names lead to the server."""
    return Names(tls_server.wire.address, tls_server.ca_file, tmp_path)


@pytest.fixture
def tls_gate(tls_server, tmp_path):
    gate = Gate(tls_server.wire, tmp_path / "gate")
    yield gate
    gate.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-clients", action="store_true", help="old versions of fal's clients, and large uploads, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "feature(name): a line of the table client x feature")
    config.addinivalue_line("markers", "old_client: run with --all-clients only, as `make test-clients` does")
    config.stash[OUTCOMES], config.stash[NOT_RUN] = {}, Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all-clients", default=False):
        return
    left_out = [item for item in items if item.get_closest_marker("old_client")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.skipped and report.when != "teardown":
        item.config.stash[NOT_RUN][report.longrepr[2].removeprefix("Skipped: ")] += 1
    if marker := item.get_closest_marker("feature"):
        place = (marker.args[0], item.callspec.params["client"].id)
        outcomes = item.config.stash[OUTCOMES]
        if outcomes.get(place) in {None, "passed"} and (report.when == "call" or not report.passed):
            outcomes[place] = report.outcome
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if outcomes := config.stash[OUTCOMES]:
        terminalreporter.section("fal's own clients")
        terminalreporter.write_line("\n".join(table(outcomes)))
    for reason, tests in config.stash[NOT_RUN].items():
        terminalreporter.write_line(f"NOT RUN: {tests} tests of fal's clients. {reason}", yellow=True, bold=True)
