"""How the people in a photo stand, by DWPose, a distilled RTMPose (arXiv:2307.15880, arXiv:2303.07399), on onnxruntime.

Any RTMPose file whose first 17 keypoints are COCO's bodies fits: sizes are read from it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from pipelines.errors import InputError, LoadError
from pipelines.faces.onnx import open_session, try_picture
from pipelines.instantid.people import PersonDetector
from pipelines.instantid.photo import Size
from pipelines.instantid.skeleton import Body, draw_bodies
from pipelines.profile import Profile

FILES = ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
"""ImageNet's, RGB, as in RTMPose's configuration."""

MARGIN = 1.25
"""By which a box is enlarged before the crop."""

MIN_SCORE = 0.3
"""DWPose draws no keypoint below it."""

COCO, NECK = 17, 17
SHOULDERS = (5, 6)
FROM_COCO = (0, NECK, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""For each of OpenPose's 18 keypoints its index among COCO's 17 and the neck."""


@dataclass(frozen=True)
class Crop:
    """The part of a photo that the network sees: centre and size (width, height) in the photo's pixels."""

    centre: NDArray[np.float32]
    size: NDArray[np.float32]

    @classmethod
    def around(cls, box: NDArray[np.float32], aspect: float) -> "Crop":
        """A box x1 y1 x2 y2 with its margin, made wider or higher to `aspect` (width by height)."""
        width, height = (box[2:] - box[:2]) * MARGIN
        size = np.array([max(width, height * aspect), max(height, width / aspect)], np.float32)
        return cls(((box[:2] + box[2:]) / 2).astype(np.float32), size)


class PoseEstimator:
    """Draws pose images. Safe to call from several threads."""

    def __init__(self, folder: Path, profile: Profile) -> None:
        """Open FILES of `folder`. Raises LoadError naming the file, or the device that onnxruntime cannot use."""
        self._people = PersonDetector(folder / FILES[0], profile.device)
        path = folder / FILES[1]
        self._session: Any = open_session(path, profile.device)
        self._size, shapes = try_picture(self._session, path)
        if not are_simcc(self._size, shapes):
            width, height = self._size
            raise LoadError(
                f"{path} is not an RTMPose model: from {width}x{height} it makes {shapes}. Download it again."
            )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, photo: Image) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of the photo's size: everybody's body on black.

        Raises:
            InputError: nobody's keypoints can be seen (decision 0013).
        """
        bodies = self.bodies(np.asarray(photo))
        if not bodies:
            raise InputError(
                ("face_image_url",),
                "Could not detect a body's pose in the image. Use a photo that shows at least head and shoulders, or "
                "another controlnet_selection.",
            )
        return draw_bodies(photo.size, bodies)

    def bodies(self, rgb: NDArray[np.uint8]) -> list[Body]:
        """Everybody of whom a keypoint can be seen; where no person is found, whoever fills the whole photo."""
        boxes = self._people(rgb)
        if not len(boxes):
            boxes = np.array([[0, 0, rgb.shape[1], rgb.shape[0]]], np.float32)
        found = [self.body(rgb, box) for box in boxes]
        return [body for body in found if np.isfinite(body).any()]

    def body(self, rgb: NDArray[np.uint8], box: NDArray[np.float32]) -> Body:
        """The person inside `box`."""
        width, height = self._size
        crop = Crop.around(box, width / height)
        zoom, corner = self._size / crop.size, crop.centre - crop.size / 2
        matrix = np.array([[zoom[0], 0, -corner[0] * zoom[0]], [0, zoom[1], -corner[1] * zoom[1]]], np.float32)
        seen = cv2.warpAffine(rgb, matrix, self._size, flags=cv2.INTER_LINEAR)
        pixels = ((seen - MEAN) / STD).transpose(2, 0, 1)[None]
        x, y = self._session.run(None, {self._input: pixels})
        points, scores = read_simcc(x[0], y[0])
        return to_openpose((points * crop.size + corner).astype(np.float32), scores)


def are_simcc(size: Size, shapes: list[tuple[int, ...]]) -> bool:
    """Whether these are keypoints' columns (1, K, r W) and rows (1, K, r H) for a picture of this size (W, H)."""
    if [len(shape) for shape in shapes] != [3, 3]:
        return False
    (_, keypoints, columns), (_, _, rows) = shapes
    return keypoints >= COCO and columns * size[1] == rows * size[0]


def read_simcc(x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Keypoints (K, 2) in 0..1 of the crop and their scores (K,), from one classification per axis (arXiv:2107.03332).

    Args:
        x, y: (K, columns), (K, rows): how likely each column and row is.
    """
    points = np.stack([x.argmax(axis=1) / x.shape[1], y.argmax(axis=1) / y.shape[1]], axis=1).astype(np.float32)
    return points, np.minimum(x.max(axis=1), y.max(axis=1))


def to_openpose(points: NDArray[np.float32], scores: NDArray[np.float32]) -> Body:
    """COCO's keypoints, of which there may be more than the body's 17, in OpenPose's order.

    The neck is in the middle of the shoulders, seen when both are.
    """
    neck = points[list(SHOULDERS)].mean(axis=0, keepdims=True)
    body = np.concatenate([points[:COCO], neck])
    sure = np.append(scores[:COCO], scores[list(SHOULDERS)].min()) >= MIN_SCORE
    return np.where(sure[:, None], body, np.float32(np.nan))[list(FROM_COCO)].astype(np.float32)
