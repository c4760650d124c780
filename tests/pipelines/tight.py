"""Tight runs out of memory once per process, and then fits."""

from pipelines.errors import OutOfMemory
from tests.pipelines.characters import Character, endpoint


class Tight(Character):
    def __init__(self) -> None:
        self.fits = False

    def step(self, step: int) -> None:
        if not self.fits:
            self.fits = True
            raise OutOfMemory


TIGHT = endpoint("tight", "tests.pipelines.tight:Tight")
