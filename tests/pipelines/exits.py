"""Exits takes its process down, as a crash in native code does."""

import os

from tests.pipelines.characters import Character, endpoint


class Exits(Character):
    def step(self, step: int) -> None:
        os._exit(139)


EXITS = endpoint("exits", "tests.pipelines.exits:Exits")
