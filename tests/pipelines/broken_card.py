"""BrokenCard loses its device at every job, on one card of the two. Not in CATALOG: its worker comes and goes."""

import os
from collections.abc import Sequence

from pipelines.endpoint import Endpoint, OnStep, Picture
from pipelines.errors import DeviceLost
from tests.pipelines.characters import Character, ReadyWish, endpoint

BROKEN = "GPU-broken"


class BrokenCard(Character):
    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        if os.environ.get("CUDA_VISIBLE_DEVICES") == BROKEN:
            raise DeviceLost
        return super().generate(prepared, on_step)


BROKEN_CARD = endpoint("broken-card", "tests.pipelines.broken_card:BrokenCard")
CATALOG: tuple[Endpoint, ...] = (BROKEN_CARD,)
