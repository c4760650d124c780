"""A PuLID request made ready on the CPU, and how a batch of them lines up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.pulid.endpoint import PuLIDRequest

MAX_PHOTO_SIDE = 1024
"""Photos are shrunk to this before any detection (upstream resize_numpy_image_long)."""


@dataclass(frozen=True)
class PuLIDPrepared:
    """A request with its faces found.

    Args:
        seed: the request's, or the one drawn for it.
        crops: aligned faces, (512, 512, 3) uint8 RGB each; empty without photos.
        embeddings: raw ArcFace, (512,) float32 each.
    """

    request: PuLIDRequest
    seed: int
    crops: tuple[NDArray[np.uint8], ...]
    embeddings: tuple[NDArray[np.float32], ...]

    @property
    def has_identity(self) -> bool:
        return bool(self.crops) and self.request.id_scale != 0

    @property
    def guided(self) -> bool:
        return self.request.guidance_scale > 1

    @property
    def batch_key(self) -> tuple[Any, ...]:
        r = self.request
        identity = (r.mode, r.id_mix, len(self.crops)) if self.has_identity else None
        return (r.width, r.height, r.num_inference_steps, self.guided, identity)


def shrink(image: Image.Image) -> Image.Image:
    """The photo as RGB with its longest side at most 1024 pixels; never enlarged (pulid.md §A2)."""
    rgb = np.asarray(image.convert("RGB"))
    factor = MAX_PHOTO_SIDE / max(rgb.shape[:2])
    if factor >= 1:
        return Image.fromarray(rgb)
    size = (max(1, int(rgb.shape[1] * factor)), max(1, int(rgb.shape[0] * factor)))  # a line has no face, but a size
    return Image.fromarray(cv2.resize(rgb, size, interpolation=cv2.INTER_LANCZOS4))


def stack_halves(
    prepared: Sequence[PuLIDPrepared], unconditional: Sequence[Tensor], conditional: Sequence[Tensor]
) -> Tensor:
    """One row per request -> one row per picture, (unconditional half, conditional half) when guided."""
    halves = (unconditional, conditional) if prepared[0].guided else (conditional,)
    return torch.stack(
        [row for half in halves for p, row in zip(prepared, half, strict=True) for _ in range(p.request.num_images)]
    )
