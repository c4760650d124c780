"""Two pipelines that take a thing from the shelf and draw which one they got. Not in CATALOG."""

from pathlib import Path
from typing import Self

from pipelines.endpoint import Endpoint, OnStep, Picture
from pipelines.profile import Profile
from pipelines.shelf import Shelf
from tests.pipelines.characters import Character, ReadyWish, endpoint


class Sharing(Character):
    thing: "Sharing"

    @classmethod
    def load(cls, folder: Path, profile: Profile, shelf: Shelf | None = None) -> Self:
        self = cls()
        self.thing = shelf.get("thing", [Path(__file__)], cls) if shelf else self
        return self

    def generate(self, prepared: list[ReadyWish], on_step: OnStep) -> list[list[Picture]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [[Picture(pictures[0].image, id(self.thing))] for pictures in super().generate(prepared, on_step)]


CATALOG: tuple[Endpoint, ...] = tuple(endpoint(name, "tests.pipelines.sharing:Sharing") for name in ("one", "other"))
