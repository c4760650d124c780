"""The GPU check as a program, on the CPU and tiny networks: every path runs, is right and is written down.

Nothing it says about time means anything here.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.errors import LoadError
from pipelines.instantid.controls import FOLDERS
from pipelines.sdxl.graph import Rerun, Runner
from scripts import bench_gpu
from scripts.gpu import models, networks, others
from scripts.gpu.bench import ERROR, bar_of, own
from scripts.gpu.ceilings import count_flops
from scripts.gpu.checks import BARS, UNLIKE, error_of, stock_checks
from scripts.gpu.clock import Clock, Times
from scripts.gpu.faces import face_row
from scripts.gpu.journal import Check, Journal
from scripts.gpu.models import check_finite
from scripts.gpu.networks import Kit
from scripts.gpu.resident import BOTH, unrecorded, weights_of
from scripts.gpu.rows import Row
from scripts.replay_result import Result
from scripts.upstream_steps import draw_lora
from weights.store import read_shapes

ROOT = Path(__file__).parents[2]

ABSENT = {
    "server", "sqlalchemy", "alembic", "psycopg", "fastapi", "uvicorn", "structlog", "prometheus_client", "isal",
    "obstore", "insightface", "onnxruntime", "onnx", "skimage",
}  # fmt: skip
"""What a bare machine with a GPU does not have."""

COLUMNS = ("upstream", "eager", "graph", "12gb")

BARE = f"""
import runpy, sys

class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
sys.argv[0] = "gpu_check"
runpy.run_module("scripts.gpu_check", run_name="__main__")
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """The records and the page of one run on a machine that has only what a bare one has."""
    folder = tmp_path_factory.mktemp("gpu-check")
    options = ["--tiny", "--device", "cpu", "--dtype", "float32", "--runs", "1", "--out", str(folder)]
    command = [sys.executable, "-c", BARE, *options, "--columns", *COLUMNS]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (lines,), (page,) = folder.glob("*-cpu.jsonl"), folder.glob("*-cpu.md")
    assert done.stdout.endswith(f"{page}\n{lines}\n")
    return [json.loads(line) for line in lines.read_text().splitlines()], page.read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_path_gives_what_the_plain_one_gives(found: tuple[list[dict[str, Any]], str]) -> None:
    checks = {r["name"]: r for r in found[0] if r["kind"] == "check"}
    for model in ("instantid", "pulid"):
        for name in (f"goldens {model} float32", f"{model} graph float32", f"{model} 12gb float32"):
            assert checks[name]["ok"], checks[name]
        assert 0 < checks[f"{model} upstream float32"]["error"] <= 1e-5, "another composition, so not bit by bit"
    assert [r for r in found[0] if r["kind"] in {"failure", "skipped"}] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_stage_of_every_column_is_measured_and_on_the_page(found: tuple[list[dict[str, Any]], str]) -> None:
    records, page = found
    rows = [r for r in records if r["kind"] == "row"]
    names = {"VAE", "step", "denoise", "before the loop", "after the loop", "GPU time", "host per step", "end to end"}
    names |= {"share of the FLOP floor", "throughput at batch 1"}
    for model in ("instantid", "pulid"):
        for column in COLUMNS:
            mine = {r["name"]: r for r in rows if (r["model"], r["column"]) == (model, column)}
            alone = {"VAE"} if column == "12gb" else set()  # whose networks are on the device in a request only
            assert names - alone <= mine.keys()
            differences = {"before the loop", "before the loop, again"}  # on a busy machine one may come to nothing
            measured = {name for name, row in mine.items() if row["value"] > 0 or "error" in name}
            assert mine.keys() - differences <= measured
            assert any(name.endswith(", again") for name in mine)
            assert ("throughput at batch 2" in mine) == (column in {"eager", "graph"})
    assert [r["name"] for r in rows if r["model"] == BOTH] == ["weights"], "a peak is measured on a GPU only"
    assert "### instantid" in page
    assert "| | upstream | eager | graph | 12gb |" in page
    assert "matrix product in float16" in page


def test_without_a_gpu_it_says_so_and_how_to_try_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    parser = argparse.ArgumentParser()
    bench_gpu.add_arguments(parser)
    arguments = parser.parse_args(["--device", "cuda"])
    with pytest.raises(SystemExit, match=r"sees no CUDA GPU.*--tiny --device cpu"):
        bench_gpu.plan_of(arguments)


def test_a_run_that_is_cut_keeps_what_it_had(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "cpu")
    journal.check(Check("first", 2e-5, 1e-4, "(worst)"))
    journal.check(Check("second", float("nan"), 1e-4))
    journal.write("failure", {"name": "third", "why": "OutOfMemory: too small"})
    assert len(journal.path.read_text().splitlines()) == 3
    page = journal.page.read_text()
    assert "| first (worst) | 2.00e-05 | 1.00e-04 | ok |" in page
    assert "**failed**" in page
    assert "- third: OutOfMemory: too small" in page
    assert journal.failed == ["second", "third"]


def test_times_are_told_by_their_middle_and_their_noise() -> None:
    times = Times((9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0))
    assert (times.median, times.p90) == (5.0, 8.0)
    assert times.noise == pytest.approx((8 - 2) / 5)
    assert Times((0.0,)).noise == 0


def test_what_no_network_would_make_is_noticed() -> None:
    for bad in (torch.zeros(9), torch.tensor([1.0, float("nan")]), torch.tensor([1e9, -1e9])):
        with pytest.raises(ArithmeticError, match="latents"):
            check_finite("latents", bad)
    assert error_of(torch.tensor([1.0, float("inf")]), torch.ones(2)) == float("inf")
    assert error_of(torch.tensor([1.0, 1.1]), torch.tensor([1.0, 1.0])) == pytest.approx(0.1 / 2**0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "tera", "spread", "weights"), [("instantid", 30.1, 0.3, 15.8), ("pulid", 9.85, 0.1, 9.1)]
)
def test_full_size_is_the_real_size(model: str, tera: float, spread: float, weights: float) -> None:
    """Shapes without numbers: names and sizes as recorded from the real files, operations as performance.md counts."""
    kit = Kit("full", "meta", torch.float16)
    pipeline: Any = models.instantid(kit, controls=tuple(FOLDERS)) if model == "instantid" else models.pulid(kit)
    assert weights_of(pipeline) / 1e9 == pytest.approx(weights, abs=0.1)
    request = [models.prepared(pipeline, kit)]
    nets: dict[str, Any] = {"sdxl_unet": networks.unet(kit, models.BASES[model]), "sdxl_vae": pipeline.vae}
    if model == "instantid":
        nets["sdxl_controlnet"] = networks.control_net(kit, "ControlNetModel")
    for name, net in nets.items():
        recorded = {key: tuple(shape) for key, (shape, _) in read_shapes(name).items()}
        assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == recorded
    with torch.inference_mode():
        latents, *fresh = pipeline.draw_latents(request) if model == "instantid" else [pipeline.draw_latents(request)]
        identity = pipeline.encode_face(request) if model == "instantid" else pipeline.encode_identity(request)
        last = fresh if model == "instantid" else latents
        step = pipeline.make_step(request, pipeline.encode_prompt(request), identity, last)
        assert count_flops(lambda: step(latents, 0)) / 1e12 == pytest.approx(tera, abs=spread)


def test_the_lora_is_as_large_as_lcms() -> None:
    lora = draw_lora(networks.unet(Kit("full", "meta", torch.float16), "instantid/base"))
    assert len(lora.modules) == 788
    assert {key: list(value.shape) for key, value in lora.tensors.items()} == {
        key: shape for key, (shape, _) in read_shapes("lcm_lora_sdxl").items()
    }


def test_branches_are_instantids_alone() -> None:
    assert own(["plain", "eager", "branches"], "instantid") == ["eager", "branches"]
    assert own(["plain", "eager", "branches"], "pulid") == ["eager"]


def test_plain_diffusers_runs_both_models() -> None:
    torch.set_num_threads(1)
    kit = Kit("tiny", "cpu", torch.float32)
    for model in ("instantid", "pulid"):
        column = others.other_column("plain", kit, model)
        (pixels,) = column.run(1, lambda step, total: False)
        assert pixels.shape == (128, 64, 3)
        assert (column.latents is None) == (model == "instantid")


def test_the_time_of_the_face_models_needs_their_files(tmp_path: Path) -> None:
    kit, clock = Kit("tiny", "cpu", torch.float32), Clock("cpu", runs=2, warm=1)
    row = face_row(ROOT / "weights" / "tiny", kit, clock)
    assert (row.name, len(row.runs)) == ("haar and ArcFace", 2)
    assert row.value > 0
    with pytest.raises(LoadError, match="glintr100"):
        face_row(tmp_path, kit, clock)


def test_in_bfloat16_a_column_is_compared_with_upstreams_in_the_same_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "cpu")
    assert bar_of("bfloat16", "pulid", journal) == BARS["bfloat16"]
    journal.rows([Row("pulid", "upstream", ERROR, "", 0.02), Row("instantid", "upstream", ERROR, "", 0.001)])
    assert bar_of("bfloat16", "pulid", journal) == pytest.approx(0.025)
    assert bar_of("bfloat16", "instantid", journal) == BARS["float16"]
    assert bar_of("float16", "pulid", journal) == BARS["float16"]


def erring(name: str, error: float, problem: str | None = None) -> Result:
    """One request in half precision."""
    return Result(name, error, error, problem, latents_norm=error)


def verdicts(ours: list[Result], stocks: list[Result]) -> dict[str, bool]:
    checks = stock_checks("goldens", "bfloat16", ours, stocks)
    return {check.name.removeprefix("goldens "): check.ok for check in checks}


MEDIAN, WORST, BEYOND = "over diffusers', median", "over diffusers', worst", "beyond diffusers'"
BOTH_CAN = [erring("a", 0.05), erring("b", 0.06)]


@pytest.mark.parametrize("broken", [erring("c", float("nan")), erring("c", 0.0, "ValueError: no"), erring("c", 0.9)])
def test_a_request_beyond_stock_networks_must_still_be_right(broken: Result) -> None:
    """One that breaks, or is not finite, or is not the recorded picture at all."""
    assert verdicts([*BOTH_CAN, erring("c", UNLIKE / 2)], BOTH_CAN) == {MEDIAN: True, WORST: True, BEYOND: True}
    assert verdicts([*BOTH_CAN, broken], BOTH_CAN) == {MEDIAN: True, WORST: True, BEYOND: False}
    assert verdicts(BOTH_CAN, BOTH_CAN) == {MEDIAN: True, WORST: True}


def test_a_request_that_breaks_with_us_or_with_stock_networks_was_not_compared() -> None:
    broken = erring("b", 0.0, "ValueError: no")
    assert not verdicts([erring("a", 0.05), broken], BOTH_CAN)[WORST]
    assert not verdicts(BOTH_CAN, [erring("a", 0.05), broken])[WORST]


def test_a_pipeline_without_recordings_is_told() -> None:
    class Broken:
        def record(self, run: Any) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

    def body(x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x + 1,)

    found = []
    for recorder in (Rerun(), Broken(), Rerun()):
        runner = Runner(recorder)
        for _ in range(3 if len(found) < 2 else 1):
            runner.bind(body)(torch.zeros(2))
        found.append(unrecorded(SimpleNamespace(runner=runner)))
    assert found == [0, 2, 1], "recorded; refused, and so none; never asked for twice, and so none"
