"""LosesDevice: the device fails for good in the first process that runs it, and works in the next one."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.endpoint import OnStep, Picture
from pipelines.errors import DeviceLost
from tests.pipelines.characters import Character, ReadyWish, endpoint


class LosesDevice(Character):
    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        note = prepared[0].wish.note
        if note and not Path(note).exists():
            Path(note).touch()
            raise DeviceLost
        return super().generate(prepared, on_step)


LOSES_DEVICE = endpoint("loses-device", "tests.pipelines.loses_device:LosesDevice")
