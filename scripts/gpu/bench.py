"""The benchmark: ceilings first, then every way of running each model, one after another, each by itself in memory."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.memory import LEAST, budget_of
from pipelines.profile import Profile
from pipelines.sdxl.branches import branches_of
from pipelines.sdxl.graph import runner_of
from pipelines.sdxl.residents import Residents
from scripts.gpu.ceilings import Ceilings, count_flops, measure_ceilings
from scripts.gpu.checks import BARS, exact, latents_of, path_check
from scripts.gpu.clock import Clock
from scripts.gpu.columns import Column, never
from scripts.gpu.faces import face_row
from scripts.gpu.journal import Check, Journal
from scripts.gpu.models import MODELS, PIPELINES, Model
from scripts.gpu.networks import Kit
from scripts.gpu.others import Other, other_column
from scripts.gpu.ours import our_column
from scripts.gpu.resident import BOTH, both_resident
from scripts.gpu.rows import GB, PEAK, Row, measure

OTHERS: tuple[Other, ...] = ("upstream", "plain")
SPEEDS: dict[str, dict[str, Any]] = {
    "eager": {},
    "graph": {"graphs": True},
    "branches": {"graphs": True, "branches": True},
    "compiled": {"graphs": True, "compile": True},
    "24gb": {"memory": "24gb"},
    "16gb": {"memory": "16gb"},
    "12gb": {"memory": "12gb"},
}
"""What the profile switches on in each of our columns. Branches are InstantID's: PuLID has no ControlNets."""

VISITING = ("24gb", "16gb", "12gb")
"""As on a card of this size: networks come and go."""

SLOW = "compiled"
"""Takes minutes to get ready: after all that takes less."""

ERROR = "error against float32"

RECORDED_WITH = 2
"""Requests until a kind of step is recorded: the second one is."""


@dataclass(frozen=True)
class Reference:
    """What the default request comes to in float32, and its operations."""

    latents: Tensor
    flops: int


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        kit: networks. clock: how often. columns: names of `OTHERS` and `SPEEDS`.
        deadline: by `time.monotonic`; columns that would begin after it are recorded as skipped.
        single: only one request at a time, no batches.
        weights: folder with real files, for what runs in onnxruntime; None: it is not timed.
    """

    kit: Kit
    clock: Clock
    columns: tuple[str, ...]
    deadline: float
    single: bool = False
    weights: Path | None = None

    @property
    def dtype(self) -> str:
        return str(self.kit.dtype).removeprefix("torch.")


def run_bench(plan: Plan, journal: Journal) -> None:
    """Everything in the plan; what goes wrong in one column is recorded and hides no other."""
    torch.backends.cudnn.benchmark = True
    ceilings = measure_ceilings(plan.kit, plan.clock)
    for name, rate in ceilings.flops.items():
        journal.write("ceiling", {"name": f"matrix product in {name}", "value": rate / 1e12, "unit": "TFLOP/s"})
    journal.write("ceiling", {"name": "copy", "value": ceilings.bytes / 1e9, "unit": "GB/s"})
    references = references_of(plan, journal)
    for names in (set(plan.columns) - {SLOW, *VISITING}, {SLOW}, set(VISITING)):
        for model in MODELS:
            for name, make in makers(plan, model, [name for name in plan.columns if name in names]):
                work = partial(bench_column, plan, ceilings, references.get(model), make, journal)
                attempt(journal, plan, f"{model} {name}", work)
        if "graph" in names:
            attempt(journal, plan, BOTH, lambda: found(journal, both_resident(plan.kit, plan.clock)))
    if weights := plan.weights:
        attempt(journal, plan, "faces", lambda: found(journal, [face_row(weights, plan.kit, plan.clock)]))


def references_of(plan: Plan, journal: Journal) -> dict[Model, Reference]:
    """What each model comes to in float32, where that could be computed."""
    references: dict[Model, Reference] = {}
    for model in MODELS:
        attempt(journal, plan, f"{model} in float32", lambda m=model: exactly(plan, m, references, journal))
        if reference := references.get(model):
            name = f"{model} upstream in float32"
            attempt(journal, plan, name, partial(upstreams, plan, reference, model, journal))
    return references


def found(journal: Journal, records: Iterable[Row | Check]) -> None:
    """Keep figures and outcomes as they come."""
    for record in records:
        if isinstance(record, Check):
            journal.check(record)
        else:
            journal.rows([record])


def attempt(journal: Journal, plan: Plan, name: str, work: Callable[[], object]) -> None:
    """Do it unless time is up, and clean up after it; its failure is recorded and not raised."""
    if time.monotonic() > plan.deadline:
        journal.write("skipped", {"name": name, "why": "no time was left"})
        return
    try:
        work()
    except Exception as error:  # a card too small for one column, or a bug in one, must not lose the rest
        lines = str(error).splitlines() or [""]
        journal.write("failure", {"name": name, "why": f"{type(error).__name__}: {lines[0]}"})
    gc.collect()
    if plan.kit.device.startswith("cuda"):
        torch.cuda.empty_cache()


def exactly(plan: Plan, model: Model, references: dict[Model, Reference], journal: Journal) -> None:
    """Our eager result in float32, which our faster ways must give too; compiling is left for half precision.

    Args:
        references: where the result is put.
    """
    kit = plan.kit.to(torch.float32)
    with exact():
        pipeline = PIPELINES[model](kit)
        plain = our_column("eager", kit, model, pipeline)
        reference = Reference(latents_of(plain), count_flops(lambda: plain.run(1, never)))
        references[model] = reference
        journal.write("ceiling", {"name": f"a request to {model}", "value": reference.flops / 1e12, "unit": "TFLOP"})
        for name in own(plan.columns, model):
            if name not in {"eager", SLOW, *VISITING}:
                column = sped_up(name, kit, model, pipeline, single=True)
                attempt(journal, plan, f"{model} {name} in float32", partial(same, column, reference, journal))


def same(column: Column, reference: Reference, journal: Journal) -> None:
    """A way of running in float32 must come to the reference's result."""
    column.ready()
    journal.check(path_check(column, "float32", reference.latents, BARS["float32"]))


def upstreams(plan: Plan, reference: Reference, model: Model, journal: Journal) -> None:
    """Upstream's way must come to the same result as ours."""
    with exact():
        same(other_column("upstream", plan.kit.to(torch.float32), model), reference, journal)


def own(names: Sequence[str], model: Model) -> list[str]:
    """Those of our columns that this model has."""
    return [name for name in names if name in SPEEDS and (name, model) != ("branches", "pulid")]


def makers(plan: Plan, model: Model, names: Sequence[str]) -> Iterator[tuple[str, Callable[[], Column]]]:
    """What makes each column. Ours share their networks, the others' come and go first."""
    for name in OTHERS:
        if name in names:
            yield name, partial(other_column, name, plan.kit, model)
    kept: list[Any] = []
    for name in own(names, model):
        yield name, lambda name=name: sped_up(name, plan.kit, model, once(kept, plan.kit, model), plan.single)


def once(kept: list[Any], kit: Kit, model: Model) -> Any:
    """The pipeline in the list, made when there is none yet."""
    if not kept:
        kept.append(PIPELINES[model](kit))
    return kept[0]


def sped_up(name: str, kit: Kit, model: Model, pipeline: Any, single: bool = False) -> Column:
    """Our column with what its name switches on; `single` makes it ready for one request at a time only."""
    profile = Profile(device=kit.device, **SPEEDS[name])
    device = torch.device(kit.device)
    pipeline.runner = runner_of(profile, device)
    if model == "instantid":
        pipeline.branches = branches_of(profile.branches, device)
    column = our_column(name, kit, model, pipeline)
    if profile.offload:
        send_home(pipeline)
        pipeline.residents = Residents(device, budget_of(SPEEDS[name]["memory"]))
        return replace(column, parts=dict, batches=(1,))
    if single or name == SLOW:  # every size of a batch is compiled for itself
        column = replace(column, batches=(1,))
    return replace(column, ready=lambda: warm_up(column, pipeline))


def send_home(pipeline: Any) -> None:
    """All networks into the computer's memory, from where a request calls them."""
    pipeline.residents.clear()
    for net in pipeline.components.values():
        if isinstance(net, nn.Module):
            nn.Module.to(net, "cpu")


def warm_up(column: Column, pipeline: Any) -> None:
    """Until every batch runs the fast way. Raises RuntimeError when something could not be recorded or compiled."""
    runner = pipeline.runner
    if runner.recorder is None:
        return
    for batch in column.batches:
        for _ in range(RECORDED_WITH):
            column.run(batch, never)
    if runner.compiler:
        runner.compiler.wait()
        for batch in column.batches:
            column.run(batch, never)
    failures = [*runner.failures, *(runner.compiler.failures if runner.compiler else ())]
    if failures or runner.recorded < len(column.batches):
        raise RuntimeError(f"{runner.recorded} kinds of steps were recorded; {'; '.join(failures) or 'none failed'}")


def bench_column(
    plan: Plan, ceilings: Ceilings, reference: Reference | None, make: Callable[[], Column], journal: Journal
) -> None:
    """Measure one column, then compare what it computes with the reference."""
    column = make()
    began = time.monotonic()
    column.ready()
    if "graphs" in SPEEDS.get(column.name, {}):
        journal.rows([Row(column.model, column.name, "recording and compiling", "s", time.monotonic() - began)])
    rate = ceilings.flops.get(plan.dtype, ceilings.flops["float16"])
    for row in measure(column, plan.clock, reference.flops if reference else None, rate):
        journal.rows([row])
        if row.name == PEAK and (memory := SPEEDS.get(column.name, {}).get("memory")):
            journal.check(Check(f"{column.model} {column.name} peak in GB", row.value, LEAST[memory] / GB))
    if reference and column.latents:
        check = path_check(column, plan.dtype, reference.latents, bar_of(plan.dtype, column.model, journal))
        journal.rows([Row(column.model, column.name, ERROR, "", check.error)])
        journal.check(check)


def bar_of(dtype: str, model: Model, journal: Journal) -> float:
    """The largest error of a column; in bfloat16 what upstream's way came to in this run, and a quarter for chance."""
    wanted = {"model": model, "column": "upstream", "name": ERROR}
    upstream = [record["value"] for record in journal.records if wanted.items() <= record.items()]
    if dtype == "bfloat16" and upstream:
        return max(BARS["float16"], 1.25 * upstream[-1])
    return BARS[dtype]
