"""What the tests of fal's clients share: a user's program in a process of its own, and a gate behind TLS."""

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tests.server_process import environment
from tests.wire_gate import Gate

BEFORE = "import fal_client, json, sys, time\nbody = json.loads(sys.argv[1])\nanswer = {}\n"
AFTER = "\nprint(json.dumps(answer))\n"


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
def tls_gate(tls_server, tmp_path):
    gate = Gate(tls_server.wire, tmp_path / "gate")
    yield gate
    gate.close()
