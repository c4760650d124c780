"""Hangs never finishes its first step the first time; `note` tells it that it was there before."""

import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.endpoint import OnStep, Picture
from tests.pipelines.characters import Character, ReadyWish, endpoint


class Hangs(Character):
    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        note = prepared[0].wish.note
        if note and not Path(note).exists():
            Path(note).touch()
            time.sleep(3600)
        return super().generate(prepared, on_step)


HANGS = endpoint("hangs", "tests.pipelines.hangs:Hangs")
