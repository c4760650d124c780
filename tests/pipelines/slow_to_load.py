"""SlowToLoad takes a second to load. Not in CATALOG, where it would delay every worker."""

import time
from pathlib import Path
from typing import Self

from pipelines.endpoint import Endpoint
from pipelines.profile import Profile
from pipelines.shelf import Shelf
from tests.pipelines.characters import Character, endpoint


class SlowToLoad(Character):
    @classmethod
    def load(cls, folder: Path, profile: Profile, shelf: Shelf | None = None) -> Self:
        time.sleep(1)
        return cls()


SLOW_TO_LOAD = endpoint("slow-to-load", "tests.pipelines.slow_to_load:SlowToLoad")
CATALOG: tuple[Endpoint, ...] = (SLOW_TO_LOAD,)
