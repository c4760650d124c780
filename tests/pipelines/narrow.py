"""Narrow has room for two wishes at once, and runs out of memory with more."""

from collections.abc import Sequence

from pipelines.endpoint import OnStep, Picture
from pipelines.errors import OutOfMemory
from tests.pipelines.characters import Character, ReadyWish, endpoint

ROOM = 2


class Narrow(Character):
    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        pictures = super().generate(prepared, on_step)
        if len(prepared) > ROOM:
            raise OutOfMemory
        return pictures


NARROW = endpoint("narrow", "tests.pipelines.narrow:Narrow")
