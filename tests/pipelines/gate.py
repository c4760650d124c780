"""Gate: runs until a test opens it, and leaves a trace of who ran it, so that a test decides when a job is done."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image as PILImage

from pipelines.endpoint import Endpoint, Image, ImageField, Input, OnStep, Output, Picture
from pipelines.errors import Cancelled
from pipelines.profile import Profile
from pipelines.shelf import Shelf

STEP_S, MOST_STEPS = 0.05, 1200


class GateInput(Input):
    """`folder`: where to look for the file `open` and to append to the files `started` and `finished`."""

    folder: str
    prompt: str = ""

    def images(self) -> list[ImageField]:
        return []

    def request(self) -> "GateInput":
        return self


class GateOutput(Output):
    """One picture."""

    image: Image
    seed: int

    @classmethod
    def of(cls, images: Sequence[Image], seed: int) -> Self:
        return cls(image=images[0], seed=seed)


@dataclass(frozen=True)
class Waiting:
    """A job in front of its gate."""

    folder: Path

    @property
    def batch_key(self) -> tuple[Any, ...]:
        return (self.folder,)


class GatePipeline:
    """Takes a step every 50 ms until the file `open` is there, for a minute at most."""

    @classmethod
    def load(cls, folder: Path, profile: Profile, shelf: Shelf | None = None) -> Self:
        return cls()

    def prepare(self, request: GateInput, images: Sequence[PILImage.Image]) -> Waiting:
        return Waiting(Path(request.folder))

    def generate(self, prepared: Sequence[Waiting], on_step: OnStep) -> list[list[Picture]]:
        return [self.wait(waiting.folder, on_step) for waiting in prepared]

    def wait(self, folder: Path, on_step: OnStep) -> list[Picture]:
        leave_trace(folder / "started")
        for step in range(1, MOST_STEPS + 1):
            if on_step(step, MOST_STEPS):
                leave_trace(folder / "stopped")
                raise Cancelled
            if (folder / "open").exists():
                break
            time.sleep(STEP_S)
        leave_trace(folder / "finished")
        return [Picture(np.full((8, 8, 3), 90, np.uint8), seed=7)]


def leave_trace(file: Path) -> None:
    with file.open("a") as trace:
        trace.write(f"{os.getpid()}\n")


GATE = Endpoint(
    id="test/gate",
    title="Gate",
    description="Runs until it is opened.",
    input=GateInput,
    output=GateOutput,
    pipeline="tests.pipelines.gate:GatePipeline",
    folder="gate",
)
