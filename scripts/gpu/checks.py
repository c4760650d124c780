"""Is it right on this device: upstream's recorded pictures, and the optimised paths against the plain one."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.profile import Profile
from scripts import replay_instantid, replay_pulid
from scripts.gpu.columns import Column
from scripts.gpu.journal import Check
from scripts.gpu.models import Model
from scripts.replay_result import Result
from weights.store import tiny_root

CASES = Path(__file__).parents[2] / "tests" / "golden"
REPLAYS: dict[Model, Any] = {"instantid": replay_instantid.replay, "pulid": replay_pulid.replay}

BARS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}
"""Largest error of a whole request; bfloat16 rounds eight times as coarsely as float16 (decision 0035)."""


def golden_checks(device: str, dtypes: Iterable[str] = tuple(BARS), most: int | None = None) -> Iterator[Check]:
    """The recorded requests on the tiny weights, in these precisions, float32 without TF32.

    Args:
        most: how many of each model's cases; None runs all.
    """
    for dtype in dtypes:
        for model, replay in REPLAYS.items():
            profile = Profile(device=device, dtype=dtype, tiny=True)  # pyright: ignore[reportArgumentType]
            with exact():
                results = list(first(replay(tiny_root() / model, CASES / model, profile), most))
            worst = max(results, key=lambda result: severity(result, dtype))
            note = f"({worst.problem or worst.name}, worst of {len(results)})"
            yield Check(f"goldens {model} {dtype}", severity(worst, dtype), BARS[dtype], note)


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
