"""GivesLess returns the pictures of fewer jobs than it was given: a bug that breaks the device's thread."""

from collections.abc import Sequence

from pipelines.endpoint import OnStep, Picture
from tests.pipelines.characters import Character, ReadyWish, endpoint


class GivesLess(Character):
    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        return super().generate(prepared, on_step)[1:]


GIVES_LESS = endpoint("gives-less", "tests.pipelines.gives_less:GivesLess")
