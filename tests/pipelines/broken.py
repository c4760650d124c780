"""Broken has a bug: it raises, with the prompt in the message."""

from tests.pipelines.characters import Character, endpoint


class Broken(Character):
    def step(self, step: int) -> None:
        raise KeyError("a secret that belongs to nobody but the log")


BROKEN = endpoint("broken", "tests.pipelines.broken:Broken")
