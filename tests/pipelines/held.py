"""CATALOG: the two published endpoints on their real pipelines, which after each step wait while a file is there.

The prompt ends with the file's name, after HELD_BY.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pipelines.endpoint import Endpoint, OnStep
from pipelines.instantid.endpoint import INSTANTID_LCM
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.pulid.endpoint import PULID
from pipelines.pulid.pipeline import PuLIDPipeline

HELD_BY = ", held by "


def holding(prepared: Sequence[Any], on_step: OnStep) -> OnStep:
    """The same answers, no sooner than the file is gone."""
    file = Path(prepared[0].request.prompt.partition(HELD_BY)[2])

    def answer(step: int, total: int) -> bool:
        stop = on_step(step, total)
        while file.exists():
            time.sleep(0.01)
        return stop

    return answer


class HeldInstantID(InstantIDPipeline):
    """Is on the device for as long as a test needs."""

    def generate(
        self, prepared: Sequence[Any], on_step: OnStep, output_type: Literal["uint8", "raw"] = "uint8"
    ) -> list[list[Any]]:
        return super().generate(prepared, holding(prepared, on_step), output_type)


class HeldPuLID(PuLIDPipeline):
    """See HeldInstantID."""

    def generate(
        self, prepared: Sequence[Any], on_step: OnStep, output_type: Literal["uint8", "raw"] = "uint8"
    ) -> list[list[Any]]:
        return super().generate(prepared, holding(prepared, on_step), output_type)


CATALOG: tuple[Endpoint, ...] = (
    replace(INSTANTID_LCM, pipeline="tests.pipelines.held:HeldInstantID"),
    replace(PULID, pipeline="tests.pipelines.held:HeldPuLID"),
)
