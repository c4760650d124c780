"""Is it right on this device: upstream's recorded pictures, and the optimised paths against the plain one."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.profile import Profile
from scripts import replay_instantid, replay_pulid
from scripts.gpu import stock
from scripts.gpu.columns import Column
from scripts.gpu.journal import Check
from scripts.gpu.models import Model
from scripts.replay_result import Result
from weights.store import tiny_root

CASES = Path(__file__).parents[2] / "tests" / "golden"
REPLAYS: dict[Model, Any] = {"instantid": replay_instantid.replay, "pulid": replay_pulid.replay}

BARS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}
"""Largest error of a whole request; bfloat16 rounds eight times as coarsely as float16 (decision 0035)."""

STOCKS: dict[Model, tuple[Any, Any]] = {
    "instantid": (stock.StockInstantID, stock.of_instantid),
    "pulid": (stock.StockPuLID, stock.of_pulid),
}
"""What computes the recorded requests without us, and which of them it can."""

UNLIKE = 0.25
"""Largest error in bfloat16 of the requests that stock networks cannot compute: a mistake costs more, rounding less."""

NO_WORSE, CHANCE = 1.05, 2.5
"""Our error over stock networks', by the median of all requests and in any one: rounding is a lottery in some."""


def golden_checks(
    device: str, dtypes: Iterable[str] = tuple(BARS), most: int | None = None, models: Iterable[Model] = tuple(REPLAYS)
) -> Iterator[Check]:
    """The recorded requests on the tiny weights, in these precisions, float32 without TF32.

    In bfloat16 stock networks compute them as well, and ours may not err more than they do: 1e-2 is beyond it,
    whoever computes (decision 0044). In float16 they do so where 1e-2 is missed, to tell a mistake from rounding.

    Args:
        most: how many of each model's cases; None runs all.
    """
    for dtype in dtypes:
        for model in models:
            with exact():
                results = list(first(replayed(model, device, dtype), most))
                worst = worst_check(f"goldens {model} {dtype}", results, dtype)
                if dtype != "bfloat16":
                    yield worst
                if dtype == "bfloat16" or (dtype == "float16" and not worst.ok):
                    stocks = list(stock_results(model, device, dtype, results))
                    yield from stock_checks(f"goldens {model} {dtype}", dtype, results, stocks)


def replayed(model: Model, device: str, dtype: str, **options: Any) -> Iterator[Result]:
    """Each recorded request of a model."""
    profile = Profile(device=device, dtype=dtype, tiny=True)  # pyright: ignore[reportArgumentType]
    return REPLAYS[model](tiny_root() / model, CASES / model, profile, **options)


def stock_results(model: Model, device: str, dtype: str, ours: Sequence[Result]) -> Iterator[Result]:
    """Those of our requests that stock networks can compute, computed by them."""
    kind, can = STOCKS[model]
    names = {result.name for result in ours}
    return replayed(model, device, dtype, kind=kind, only=lambda case: case["name"] in names and can(case))


def worst_check(name: str, results: Sequence[Result], dtype: str, bar: float | None = None) -> Check:
    """The case with the largest error. `bar`: None takes that of the precision."""
    worst = max(results, key=lambda result: severity(result, dtype))
    note = f"({worst.problem or worst.name}, worst of {len(results)})"
    return Check(name, severity(worst, dtype), BARS[dtype] if bar is None else bar, note)


def stock_checks(name: str, dtype: str, ours: Sequence[Result], stocks: Sequence[Result]) -> Iterator[Check]:
    """Our errors over those of stock networks in the same precision, the middle one and the worst; and the others."""
    found = {result.name: severity(result, dtype) for result in ours}
    ratios = {result.name: ratio(found[result.name], severity(result, dtype)) for result in stocks}
    worst = max(ratios, key=lambda name: ratios[name])
    largest = max(found, key=lambda name: found[name])
    told = f"of {len(ratios)}; errors of {len(found)}: median {statistics.median(found.values()):.1e}"
    note = f"({told}, {found[largest]:.1e} in {largest})"
    yield Check(f"{name} over diffusers', median", statistics.median(ratios.values()), NO_WORSE, note)
    yield Check(f"{name} over diffusers', worst", ratios[worst], CHANCE, f"({worst}, worst of {len(ratios)})")
    others = [result for result in ours if result.name not in ratios]
    if others:
        yield worst_check(f"{name} beyond diffusers'", others, dtype, UNLIKE)


def ratio(ours: float, stock: float) -> float:
    """How many times larger our error is; infinite when either is: without a stock picture nothing was compared."""
    return ours / stock if math.isfinite(stock) else math.inf


def severity(result: Result, dtype: str) -> float:
    """The largest error in float32; in half precision that of the latents as a whole. Infinite when it did not run."""
    if result.problem or result.latents_norm != result.latents_norm:
        return float("inf")
    return max(result.latents_rel, result.image_max) if dtype == "float32" else result.latents_norm


def first(results: Iterator[Result], most: int | None) -> Iterator[Result]:
    """At most so many."""
    for number, result in enumerate(results, 1):
        yield result
        if number == most:
            return


def path_check(column: Column, dtype: str, reference: Tensor, bar: float) -> Check:
    """A way of running a model against the reference: the same request, the same numbers."""
    return Check(f"{column.model} {column.name} {dtype}", error_of(latents_of(column), reference), bar)


def latents_of(column: Column) -> Tensor:
    """The final latents, on the CPU."""
    assert column.latents is not None
    return column.latents().cpu()


def error_of(value: Tensor, reference: Tensor) -> float:
    """Length of the difference over the length of the reference; infinite when something is not finite."""
    if not torch.isfinite(value).all():
        return float("inf")
    return float((value - reference).norm() / reference.norm())


@contextmanager
def exact() -> Iterator[None]:
    """float32 is float32 inside: no TF32."""
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value
