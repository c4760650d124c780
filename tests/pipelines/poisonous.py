"""Poisonous cannot grant the wish with seed 13: it raises, whoever else is in the batch."""

from collections.abc import Sequence

from pipelines.endpoint import OnStep, Picture
from tests.pipelines.characters import Character, ReadyWish, endpoint

POISON = 13


class Poisonous(Character):
    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        pictures = super().generate(prepared, on_step)
        if any(one.wish.seed == POISON for one in prepared):
            raise KeyError("what nobody has")
        return pictures


POISONOUS = endpoint("poisonous", "tests.pipelines.poisonous:Poisonous")
