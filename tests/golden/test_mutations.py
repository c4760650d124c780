"""Every one-line mistake in mutations.toml turns a golden red: what the goldens really hold."""

import json
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.mutations import Mutation, Outcome

ROOT = Path(__file__).parents[2]
LISTED = tomllib.loads((ROOT / "tests/golden/mutations.toml").read_text("utf-8"))
MISTAKES = [Mutation(**row) for rows in LISTED.values() for row in rows]
CONTROLS = [
    Mutation("unchanged InstantID", "instantid base"),
    Mutation("unchanged PuLID", "pulid base"),
    Mutation("unchanged edges", "edges"),
    Mutation("unchanged labels", "labels"),
]
STALE = Mutation("a text that is not there", "edges", "pipelines/instantid/controls.py", "no such text", "")
TOLERANCE = 5e-5
"""The looser one of the two models' golden tests."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    rows = json.dumps([asdict(mutation) for mutation in [*CONTROLS, STALE, *MISTAKES]])
    command = [sys.executable, "-m", "tests.mutations", str(tmp_path_factory.mktemp("mutated"))]
    done = subprocess.run(command, input=rows, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return {outcome.name: outcome for outcome in (Outcome(**json.loads(line)) for line in done.stdout.splitlines())}


@pytest.mark.parametrize("mutation", CONTROLS, ids=lambda mutation: mutation.name)
def test_an_unchanged_copy_is_green(outcomes: dict[str, Outcome], mutation: Mutation) -> None:
    outcome = outcomes[mutation.name]
    assert outcome.problem is None
    assert outcome.error <= TOLERANCE


@pytest.mark.parametrize("mutation", MISTAKES, ids=lambda mutation: mutation.name)
def test_a_mistake_turns_a_golden_red(outcomes: dict[str, Outcome], mutation: Mutation) -> None:
    outcome = outcomes[mutation.name]
    assert outcome.problem is None
    assert outcome.error > TOLERANCE


def test_a_mistake_that_no_longer_fits_the_code_is_told(outcomes: dict[str, Outcome]) -> None:
    assert "occurs 0 times" in str(outcomes[STALE.name].problem)


@pytest.mark.parametrize("model", ["instantid", "pulid"])
def test_ten_mistakes_are_listed_for_each_model(model: str) -> None:
    assert len({row["name"] for row in LISTED[model]}) == len(LISTED[model]) >= 10
