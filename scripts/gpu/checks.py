"""Is it right on this device: upstream's recorded pictures, and the optimised paths against the plain one."""

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
                    yield from stock_checks(model, device, dtype, results)


def replayed(model: Model, device: str, dtype: str, **options: Any) -> Iterator[Result]:
    """Each recorded request of a model."""
    profile = Profile(device=device, dtype=dtype, tiny=True)  # pyright: ignore[reportArgumentType]
    return REPLAYS[model](tiny_root() / model, CASES / model, profile, **options)


def worst_check(name: str, results: Sequence[Result], dtype: str) -> Check:
    """The case with the largest error."""
    worst = max(results, key=lambda result: severity(result, dtype))
    note = f"({worst.problem or worst.name}, worst of {len(results)})"
    return Check(name, severity(worst, dtype), BARS[dtype], note)


def stock_checks(model: Model, device: str, dtype: str, ours: Sequence[Result]) -> Iterator[Check]:
    """Our errors over those of stock networks in the same precision: the middle one and the worst."""
    kind, can = STOCKS[model]
    found = {result.name: severity(result, dtype) for result in ours}
    stocks = list(replayed(model, device, dtype, kind=kind, only=lambda case: case["name"] in found and can(case)))
    ratios = {result.name: found[result.name] / severity(result, dtype) for result in stocks}
    worst = max(ratios, key=lambda name: ratios[name])
    largest = max(found, key=lambda name: found[name])
    name = f"goldens {model} {dtype} over diffusers'"
    note = f"(of {len(ratios)}; errors of {len(found)}: median {statistics.median(found.values()):.1e}"
    yield Check(
        f"{name}, median", statistics.median(ratios.values()), NO_WORSE, f"{note}, {found[largest]:.1e} in {largest})"
    )
    yield Check(f"{name}, worst", ratios[worst], CHANCE, f"({worst}, worst of {len(ratios)})")


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
