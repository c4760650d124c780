"""Painter: paints noise from the seed, in the asked size, in no time. It takes either model's own request."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image as PILImage

from pipelines.endpoint import OnStep, Picture
from pipelines.errors import Cancelled
from pipelines.profile import Profile
from pipelines.shelf import Shelf


@dataclass(frozen=True)
class Canvas:
    """A request, the seed it will be painted with, and (width, height) in pixels."""

    request: Any
    seed: int
    size: tuple[int, int]

    @property
    def batch_key(self) -> tuple[Any, ...]:
        return self.size


class Painter:
    """The picture is a function of seed, index and prompt, as a real model's would be."""

    @classmethod
    def load(cls, folder: Path, profile: Profile, shelf: Shelf | None = None) -> Self:
        return cls()

    def prepare(self, request: Any, images: Sequence[PILImage.Image]) -> Canvas:
        size = (request.width, request.height) if hasattr(request, "width") else images[0].size
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        return Canvas(request, seed, size)

    def generate(self, prepared: Sequence[Canvas], on_step: OnStep) -> list[list[Picture]]:
        return [self.paint(canvas, on_step) for canvas in prepared]

    def paint(self, canvas: Canvas, on_step: OnStep) -> list[Picture]:
        steps = canvas.request.num_inference_steps
        for step in range(1, steps + 1):
            if on_step(step, steps):
                raise Cancelled
        width, height = canvas.size
        pictures = []
        for index in range(getattr(canvas.request, "num_images", 1)):
            colour = np.random.default_rng([canvas.seed, index]).integers(0, 256, 3, dtype=np.uint8)
            pictures.append(Picture(np.tile(colour, (height, width, 1)), canvas.seed))
        return pictures
