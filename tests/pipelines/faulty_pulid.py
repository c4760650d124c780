"""FaultyPuLID: the real PuLID pipeline, whose runs obey the scenes that the prompts name."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.endpoint import Measure, OnStep, Picture
from pipelines.profile import Profile
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.pulid.prepared import PuLIDPrepared
from pipelines.shelf import Shelf
from tests.faults.scene import STORED, Scene

FATEFUL_STEP = 2
HOARDED = 80_000_000
"""Bytes that one run keeps."""


class FaultyPuLID(PuLIDPipeline):
    """Without a scene it is what it inherits; a batch obeys the scenes of all its members."""

    def run_as(self, profile: Profile | None, device: torch.device, shelf: Shelf | None = None) -> None:
        super().run_as(profile, device, shelf)
        self.hoard: list[bytes] = []

    def generate(
        self,
        prepared: Sequence[PuLIDPrepared],
        on_step: OnStep,
        output_type: Literal["uint8", "raw"] = "uint8",
    ) -> list[list[Any]]:
        own = [Scene.of(one.request.prompt) for one in prepared]
        scenes = list(dict.fromkeys(scene for scene in own if scene))

        def directed(step: int, total: int) -> bool:
            for scene in scenes:
                scene.reach(step)
            if step == FATEFUL_STEP:
                for scene in scenes:
                    self.suffer(scene.failure)
            return on_step(step, total)

        for scene in scenes:
            scene.begin()
        for scene in scenes:
            scene.reach(0)
        made = super().generate(prepared, directed, output_type)
        return [[measured_in(scene, one) for one in each] for scene, each in zip(own, made, strict=True)]

    def draw_latents(self, prepared: Sequence[PuLIDPrepared]) -> Tensor:
        """All rows, as everything that overflows in one of them may be anywhere in a fused kernel."""
        latents, scenes = super().draw_latents(prepared), (Scene.of(one.request.prompt) for one in prepared)
        spoilt = any(scene.failure == "not a number" for scene in scenes if scene)
        return latents * torch.nan if spoilt else latents

    def suffer(self, failure: str) -> None:
        """What a driver, native code or a mistake would do to this process."""
        match failure:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "device lost":
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            case "out of memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            case "bug":
                raise KeyError("what nobody has")
            case "hang":
                time.sleep(3600)
            case "hoard":
                self.hoard.append(b"\1" * HOARDED)
            case _:
                return


class CrowdedPuLID(FaultyPuLID):
    """On a card on which no two visits fit: a network goes home as soon as another one is needed."""

    def run_as(self, profile: Profile | None, device: torch.device, shelf: Shelf | None = None) -> None:
        super().run_as(profile, device, shelf)
        self.residents.budget = 1


def measured_in(scene: Scene | None, picture: Picture) -> Picture:
    """The picture, whose numbers are had between its file and its row: as soon as the scene lets go of it."""
    if scene is None:
        return picture

    def late(measure: Measure) -> Measure:
        def measured() -> float | None:
            if scene.holds(STORED):
                scene.reach(STORED)
            return measure()

        return measured

    return replace(picture, metrics={name: late(measure) for name, measure in picture.metrics.items()})
