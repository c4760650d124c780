"""What the test endpoints share: a request with one optional picture, a response with pictures, a blue square."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image as PILImage
from pydantic import Field

from pipelines.endpoint import Endpoint, Image, ImageField, Input, OnStep, Output, Picture
from pipelines.errors import Cancelled
from pipelines.profile import Profile
from pipelines.shelf import Shelf


@dataclass(frozen=True)
class Wish:
    """What the test pipelines are asked for.

    Args:
        note: a file to which `generate` appends a line with the seeds of its batch when it starts.
        kind: wishes of one kind are granted together.
        prepare_s: how long `prepare` takes.
    """

    steps: int
    step_s: float
    seed: int
    note: str | None
    kind: str
    prepare_s: float


class CharacterInput(Input):
    prompt: str
    image_url: str | None = None
    steps: int = Field(default=2, ge=1, le=1000)
    step_s: float = 0.0
    seed: int = 7
    note: str | None = None
    kind: str = ""
    prepare_s: float = 0.0

    def images(self) -> list[ImageField]:
        return [ImageField(("image_url",), self.image_url)] if self.image_url else []

    def request(self) -> Wish:
        return Wish(self.steps, self.step_s, self.seed, self.note, self.kind, self.prepare_s)

    def batch_key(self) -> str:
        return self.kind


class CharacterOutput(Output):
    images: list[Image]
    seed: int

    @classmethod
    def of(cls, images: Sequence[Image], seed: int) -> Self:
        return cls(images=list(images), seed=seed)


@dataclass(frozen=True)
class ReadyWish:
    wish: Wish

    @property
    def batch_key(self) -> tuple[Any, ...]:
        return (self.wish.kind,)


class Character:
    """A pipeline that draws one blue square in `steps` steps; the others change one thing each."""

    @classmethod
    def load(cls, folder: Path, profile: Profile, shelf: Shelf | None = None) -> Self:
        return cls()

    def prepare(self, request: Wish, images: Sequence[PILImage.Image]) -> ReadyWish:
        time.sleep(request.prepare_s)
        return ReadyWish(request)

    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        wish = prepared[0].wish
        if wish.note:
            with Path(wish.note).open("a") as notes:
                notes.write(" ".join(str(one.wish.seed) for one in prepared) + "\n")
        for step in range(1, wish.steps + 1):
            time.sleep(wish.step_s)
            self.step(step)
            if on_step(step, wish.steps):
                raise Cancelled
        return [[Picture(np.full((8, 8, 3), (0, 0, 255), np.uint8), one.wish.seed)] for one in prepared]

    def step(self, step: int) -> None:
        """Where a character misbehaves."""


def endpoint(name: str, pipeline: str) -> Endpoint:
    """The test endpoint ``test/<name>``."""
    return Endpoint(f"test/{name}", name, "A test pipeline.", CharacterInput, CharacterOutput, pipeline, folder=name)
