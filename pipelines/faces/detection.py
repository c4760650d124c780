"""What a face detector finds, and how it is asked again when a close crop shows it nothing."""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Detection:
    """A face before recognition: bbox (4,) x1 y1 x2 y2 and kps (5, 2), both float32 pixels; score in 0..1."""

    bbox: NDArray[np.float32]
    kps: NDArray[np.float32]
    score: float


@dataclass(frozen=True)
class Attempt:
    """One way to look at a photo: a black margin on every side, in parts of that side, and the detector's input side in
    pixels."""

    padding: float = 0.0
    side: int = 640


class Detector(Protocol):
    """Finds faces; `attempts` are tried in order until one finds any."""

    attempts: tuple[Attempt, ...]

    def detect(self, bgr: NDArray[np.uint8], side: int) -> list[Detection]:
        """The faces in `bgr` (H, W, 3), searched at `side` pixels."""
        ...


def find(detector: Detector, bgr: NDArray[np.uint8], retry: bool = True) -> list[Detection]:
    """The faces of the first attempt that finds any, in pixels of `bgr`; boxes may reach beyond the photo.

    A face that fills the photo is too large for a detector that expects its surroundings (instantid.md §E,
    InstantID#131), so the photo is shown with a margin, then smaller, unless `retry` is False.
    """
    for attempt in detector.attempts if retry else detector.attempts[:1]:
        height, width = bgr.shape[:2]
        x, y = round(width * attempt.padding), round(height * attempt.padding)
        shown = bgr
        if x or y:
            shown = cv2.copyMakeBorder(bgr, y, y, x, x, cv2.BORDER_CONSTANT, value=(0, 0, 0)).astype(np.uint8)
        found = detector.detect(shown, attempt.side)
        if found:
            offset = np.array([x, y], dtype=np.float32)
            return [Detection(face.bbox - np.tile(offset, 2), face.kps - offset, face.score) for face in found]
    return []
