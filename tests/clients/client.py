"""Client: one published version of fal's own clients, unmodified, and how a user's program runs with it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.names import JAVASCRIPT, PYTHON

INSTALL = "Install Node 20 and npm, and run `make test` where a package registry can be reached."
PATIENCE_S = 120


@dataclass(frozen=True)
class Client:
    """What a test is run with.

    Args:
        id: short, for reports.
        title: the package's name and version.
        package: what JavaScript imports; for Python the folder of its environment below the tests' own, or none.
        old: run by `make test-clients` only.
        lacks: features that this version does not have.
    """

    id: str
    title: str
    package: str
    old: bool = False
    lacks: frozenset[str] = frozenset()

    @property
    def javascript(self) -> bool:
        return self.id.startswith("js")

    @property
    def missing(self) -> str | None:
        """Why it cannot run on this machine."""
        if not self.javascript:
            return None if Path(self.interpreter).exists() else f"{self.title} is not installed"
        if not shutil.which("node"):
            return "Node is missing"
        installed = JAVASCRIPT / "node_modules" / self.package / "package.json"
        return None if installed.exists() else f"{self.title} is not installed"

    @property
    def interpreter(self) -> str:
        if self.javascript:
            return "node"
        return str(Path(sys.prefix, "clients", self.package, "bin", "python")) if self.package else sys.executable

    def require(self) -> None:
        """Not to have it is a failure in CI; elsewhere the end of the report says what did not run."""
        if not self.missing:
            return
        message = f"{self.missing}. {INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)

    def program(self, name: str) -> list[str]:
        return [self.interpreter, str(JAVASCRIPT / f"{name}.mjs" if self.javascript else PYTHON / f"{name}.py")]

    def start(self, name: str, given: dict[str, Any], environment: dict[str, str]) -> subprocess.Popen[str]:
        self.require()
        return subprocess.Popen(
            [*self.program(name), json.dumps(given)],
            env=clean_environment() | environment | {"CLIENT": self.package},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, given: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
        """The answer of the program tests/clients/{js,py}/`name`."""
        return answer_of(self.start(name, given, environment))


def answer_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a started program answers, once it has ended well."""
    with process:
        try:
            out, errors = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])  # some clients print, too


def clean_environment() -> dict[str, str]:
    """Nothing of ours but what a test sets."""
    ours = ("FAL_", "VERAICON_", "NODE_", "PYTHON", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(ours)}


STREAMING = {"subscribe, streaming"}
PYTHON_LACKS = {*STREAMING, "File in the input", "official proxy", "this server's proxy route"}
OLD_PYTHON_LACKS = {*PYTHON_LACKS, "timeout cancels", "fallback names when it is down"}
JAVASCRIPT_LACKS = {"asynchronous client", "fallback names when it is down"}
SERVERLESS_LACKS = {*JAVASCRIPT_LACKS, "priority", "upload in parts", "polls on after a restart"}

CLIENTS = (
    Client("js-1.10.1", "@fal-ai/client 1.10.1", "@fal-ai/client", lacks=frozenset(JAVASCRIPT_LACKS)),
    Client(
        "js-0.15.0", "@fal-ai/serverless-client 0.15.0", "@fal-ai/serverless-client", lacks=frozenset(SERVERLESS_LACKS)
    ),
    Client("py-1.0.3", "fal-client 1.0.3", "", lacks=frozenset(PYTHON_LACKS)),
    Client("py-0.7.0", "fal-client 0.7.0", "0.7.0", lacks=frozenset(OLD_PYTHON_LACKS)),
    Client(
        "js-1.2.3",
        "@fal-ai/client 1.2.3",
        "client-1.2",
        old=True,
        lacks=frozenset({*JAVASCRIPT_LACKS, "polls on after a restart"}),
    ),
    Client(
        "js-0.10.2",
        "@fal-ai/serverless-client 0.10.2",
        "serverless-client-0.10",
        old=True,
        lacks=frozenset({*SERVERLESS_LACKS, *STREAMING, "cancel", "timeout cancels"}),
    ),
    Client(
        "py-0.5.9",
        "fal-client 0.5.9",
        "0.5.9",
        old=True,
        lacks=frozenset({*OLD_PYTHON_LACKS, "polls on after a restart"}),
    ),
)
