"""FaultyPuLID: the real PuLID pipeline, whose runs obey the scene that the prompt names."""

import os
import signal
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.endpoint import OnStep
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.pulid.prepared import PuLIDPrepared
from tests.faults.scene import Scene

FATEFUL_STEP = 2


class FaultyPuLID(PuLIDPipeline):
    """Without a scene it is what it inherits."""

    def generate(
        self,
        prepared: Sequence[PuLIDPrepared],
        on_step: OnStep,
        output_type: Literal["uint8", "raw"] = "uint8",
    ) -> list[list[Any]]:
        scene = Scene.of(prepared[0].request.prompt)
        if scene is None:
            return super().generate(prepared, on_step, output_type)

        def directed(step: int, total: int) -> bool:
            scene.reach(step)
            if step == FATEFUL_STEP:
                suffer(scene.failure)
            return on_step(step, total)

        scene.begin()
        scene.reach(0)
        return super().generate(prepared, directed, output_type)

    def draw_latents(self, prepared: Sequence[PuLIDPrepared]) -> Tensor:
        latents, scene = super().draw_latents(prepared), Scene.of(prepared[0].request.prompt)
        return latents * torch.nan if scene and scene.failure == "not a number" else latents


def suffer(failure: str) -> None:
    """What a driver, or native code, would do to this process."""
    match failure:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "device lost":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        case "hang":
            time.sleep(3600)
        case _:
            return
