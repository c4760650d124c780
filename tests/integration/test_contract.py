"""The published OpenAPI documents against the server: whatever they allow and forbid, never a 5xx (schemathesis)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server_process import ServerProcess

CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"
EXAMPLES_PER_OPERATION = 300
CASES_PER_ENDPOINT = 1000
"""At least; both endpoints together are held against the 2,000 cases that were promised."""


@pytest.mark.parametrize("endpoint", ["fal-ai/pulid", "fal-ai/instantid/lcm"])
def test_the_server_keeps_to_its_own_description(painting_server: ServerProcess, tmp_path: Path, endpoint: str):
    """105: and to the bodies that it describes; the same cases in every run."""
    report = tmp_path / "report.json"
    options = {
        "--checks": CHECKS,
        "--phases": "coverage,fuzzing",
        "--max-examples": str(EXAMPLES_PER_OPERATION),
        "--report": "json",
        "--report-json-path": str(report),
    }
    done = subprocess.run(
        [
            *(
                str(Path(sys.executable).with_name("schemathesis")),
                "run",
                f"{painting_server.url}/{endpoint}/openapi.json",
            ),
            *(word for option in options.items() for word in option),
            *("--generation-deterministic", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert cases_in(report) >= CASES_PER_ENDPOINT


def cases_in(report: Path) -> int:
    return json.loads(report.read_text())["test_cases"]["generated"]
