"""Hoards keeps 16 MB of each request for good."""

from tests.pipelines.characters import Character, endpoint

KEPT = 16_000_000


class Hoards(Character):
    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def step(self, step: int) -> None:
        if step == 1:
            self.kept.append(b"\1" * KEPT)


HOARDS = endpoint("hoards", "tests.pipelines.hoards:Hoards")
