"""The ways of running a model that are compared: upstream's, plain diffusers', ours, and ours made faster."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.endpoint import OnStep
from scripts.gpu.models import Model

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""

Encode = Callable[[Pixels], bytes]
"""Pixels to a PNG file."""


@dataclass(frozen=True)
class Column:
    """One way of running a model on the endpoint's default request.

    Args:
        parts: makes what can be timed alone, by the row's name.
        run: ``run(batch, on_step)``, from prepared requests to pixels on the host.
        latents: the default request's final latents, for the error; None when they are not meant to be ours.
        encode: pixels to a PNG file, by an encoder of this name. batches: how many requests at once it can do.
        ready: run once before anything is measured.
    """

    name: str
    model: Model
    parts: Callable[[], Mapping[str, Callable[[], object]]]
    run: Callable[[int, OnStep], list[Pixels]]
    latents: Callable[[], Tensor] | None
    encode: Encode
    encoder: str
    batches: tuple[int, ...] = (1,)
    ready: Callable[[], object] = lambda: None


def never(step: int, total: int) -> bool:
    """Nobody cancels a benchmark."""
    return False


def quietly(work: Callable[[], Any]) -> Callable[[], Any]:
    """`work` without gradients, as `generate` runs it."""

    def run() -> Any:
        with torch.inference_mode():
            return work()

    return run
