"""`veraicon selftest`: the whole program on the tiny weights, and how it judges what it may find on real ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.selftest import FLAT, judged, report, run
from server.settings import Settings
from tests.server_process import veraicon

SETTINGS = Settings(weights="full")
SEEN = {"width": 64, "height": 64, "mean": 120.0, "std": 40.0}


def generated(likeness: float | None = 0.7, **looks: float) -> dict[str, Any]:
    stages = {"prepare": 0.1, "total": 1.0}
    measured = {"identity_similarity": likeness}
    told = {"fact": "generated", "endpoint": "a/b", "run": 2, "stages": stages}
    return told | {"picture": SEEN | looks, "measured": measured}


def size_of(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def levels(*facts: dict[str, Any], tiny: bool = False) -> list[str]:
    return [finding.level for finding in judged(facts, tiny)]


def test_it_runs_every_endpoint_and_writes_a_report(tmp_path):
    done = veraicon(tmp_path, "selftest", "--out", str(tmp_path / "out"), max_side_px=256, dtype="bfloat16")
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "out" / "report.md").read_text()
    facts = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [fact["fact"] for fact in facts] == ["machine", *["loaded", "generated", "generated"] * 2, "precision"]
    assert {file.name: size_of(file) for file in (tmp_path / "out").glob("*.png")} == {
        "instantid.png": (256, 256),
        "pulid.png": (768, 1024),
    }
    assert all(fact["stages"]["step"] > 0 for fact in facts if fact["fact"] == "generated")
    assert 0 < facts[-1]["error"] < 0.05


def test_without_weights_it_says_what_is_missing(tmp_path):
    done = veraicon(tmp_path, "selftest", "--out", str(tmp_path / "out"), weights="full", device="cpu")
    assert done.returncode == 1
    assert "checkpoint instantid" in done.stdout


def test_a_good_picture_is_ok():
    assert levels(generated()) == ["ok", "ok"]


@pytest.mark.parametrize("deviation", [0.0, FLAT - 0.1])
def test_a_picture_of_one_colour_stops(deviation):
    assert levels(generated(std=deviation)) == ["stop", "ok"]


@pytest.mark.parametrize("likeness", [None, 0.1, 0.99])
def test_another_person_or_a_copy_or_nobody_is_a_warning(likeness):
    assert levels(generated(likeness)) == ["ok", "warn"]


def test_on_tiny_weights_the_likeness_is_not_judged():
    assert levels(generated(None), tiny=True) == ["ok", "ok"]


@pytest.mark.parametrize(("error", "level"), [(0.01, "ok"), (0.2, "warn"), (float("nan"), "warn")])
def test_half_precision_must_stay_near_to_float32(error, level):
    assert levels({"fact": "precision", "endpoint": "a/b", "dtype": "float16", "error": error}) == [level]


def test_a_card_too_small_for_float32_is_a_warning():
    [finding] = judged([{"fact": "not compared", "endpoint": "a/b", "error": "LoadError: too small"}], tiny=False)
    assert finding.level == "warn"
    assert "not compared with float32, which needs twice the memory: LoadError: too small" in finding.message


def test_what_a_library_prints_is_no_fact(tmp_path):
    printer = tmp_path / "pipelines"
    printer.mkdir()
    (printer / "__init__.py").touch()
    (printer / "selftest.py").write_text(PRINTER)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("PYTHONPATH", str(tmp_path))
        changed.chdir(tmp_path)
        facts = list(run(Settings(weights="tiny", device="cpu", data_dir=tmp_path), tmp_path / "out"))
    assert facts == [{"fact": "machine", "offline": "1"}]


PRINTER = """
import json, os
print("Loading weights: done")
print(json.dumps({"fact": "machine", "offline": os.environ["HF_HUB_OFFLINE"]}))
"""


def test_an_endpoint_that_fails_stops_and_is_in_the_report():
    facts = [{"fact": "failed", "endpoint": "a/b", "error": "BadPicture: NaN"}, generated()]
    assert levels(*facts) == ["stop", "ok", "ok"]
    assert "BadPicture: NaN" in report(facts, judged(facts, tiny=False), SETTINGS)
