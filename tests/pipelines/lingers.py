"""Lingers over a number of its picture: the file is stored by then, and the row is not. Opened by a file."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.endpoint import Endpoint, OnStep, Picture
from tests.pipelines.characters import Character, ReadyWish, endpoint
from tests.pipelines.gate import leave_trace

LOOK_S, MOST_LOOKS = 0.02, 3000


class Lingers(Character):
    """`note`: a file beside which ``.saved`` gets a line each time, and ``.open`` lets it go on."""

    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        notes = [one.wish.note for one in prepared]
        made = super().generate(prepared, on_step)
        return [
            [replace(one, metrics={"patience": wait(note)}) for one in each]
            for note, each in zip(notes, made, strict=True)
        ]


def wait(note: str | None) -> Callable[[], float]:
    def measure() -> float:
        leave_trace(Path(f"{note}.saved"))
        looks = 0
        while looks < MOST_LOOKS and not Path(f"{note}.open").exists():
            looks += 1
            time.sleep(LOOK_S)
        return looks * LOOK_S

    return measure


LINGERS = endpoint("lingers", "tests.pipelines.lingers:Lingers")
CATALOG: tuple[Endpoint, ...] = (LINGERS,)
