"""CannotLoad misses a checkpoint. Not in CATALOG: a worker with it never gets ready."""

from pathlib import Path
from typing import Self

from pipelines.endpoint import Endpoint
from pipelines.errors import LoadError
from pipelines.profile import Profile
from pipelines.shelf import Shelf
from tests.pipelines.characters import Character, endpoint


class CannotLoad(Character):
    @classmethod
    def load(cls, folder: Path, profile: Profile, shelf: Shelf | None = None) -> Self:
        raise LoadError(f"{folder / 'unet.safetensors'} is missing: run `veraicon weights pull`")


CANNOT_LOAD = endpoint("cannot-load", "tests.pipelines.cannot_load:CannotLoad")
CATALOG: tuple[Endpoint, ...] = (CANNOT_LOAD,)
