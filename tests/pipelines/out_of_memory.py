"""OutOfMemory: the device is too small, for every request."""

from pipelines import errors
from tests.pipelines.characters import Character, endpoint


class OutOfMemory(Character):
    def step(self, step: int) -> None:
        raise errors.OutOfMemory


OUT_OF_MEMORY = endpoint("out-of-memory", "tests.pipelines.out_of_memory:OutOfMemory")
