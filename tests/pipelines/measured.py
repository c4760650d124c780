"""Measured's picture comes with two numbers: one that can be measured and one that cannot."""

from collections.abc import Sequence
from dataclasses import replace

from pipelines.endpoint import OnStep, Picture
from tests.pipelines.characters import Character, ReadyWish, endpoint


class Measured(Character):
    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        metrics = {"blueness": lambda: 0.75, "warmth": self.warmth}
        return [[replace(one, metrics=metrics) for one in pictures] for pictures in super().generate(prepared, on_step)]

    def warmth(self) -> float:
        raise RuntimeError("there is no thermometer")


MEASURED = endpoint("measured", "tests.pipelines.measured:Measured")
