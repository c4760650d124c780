"""BlueSquare works: one blue square, as many steps as asked for, each as long as asked for."""

from tests.pipelines.characters import Character, endpoint


class BlueSquare(Character):
    pass


BLUE_SQUARE = endpoint("blue-square", "tests.pipelines.blue_square:BlueSquare")
