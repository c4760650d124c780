"""Deadly takes its process down with the wish whose seed is 13, whoever else is in the batch."""

import os
from collections.abc import Sequence

from pipelines.endpoint import OnStep, Picture
from tests.pipelines.characters import Character, ReadyWish, endpoint

DEATH = 13


class Deadly(Character):
    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        pictures = super().generate(prepared, on_step)
        if any(one.wish.seed == DEATH for one in prepared):
            os._exit(139)
        return pictures


DEADLY = endpoint("deadly", "tests.pipelines.deadly:Deadly")
