"""BlackOut notices that its picture is black."""

from pipelines.errors import BadPicture
from tests.pipelines.characters import Character, endpoint


class BlackOut(Character):
    def step(self, step: int) -> None:
        raise BadPicture


BLACK_OUT = endpoint("black-out", "tests.pipelines.black_out:BlackOut")
