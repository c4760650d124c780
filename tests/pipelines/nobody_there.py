"""NobodyThere never finds a face."""

from collections.abc import Sequence

from PIL import Image as PILImage

from pipelines.errors import FaceNotFound
from tests.pipelines.characters import Character, ReadyWish, Wish, endpoint


class NobodyThere(Character):
    def prepare(self, request: Wish, images: Sequence[PILImage.Image]) -> ReadyWish:
        raise FaceNotFound(("image_url",))


NOBODY_THERE = endpoint("nobody-there", "tests.pipelines.nobody_there:NobodyThere")
