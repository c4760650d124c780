"""Faces by OpenCV's packaged Haar cascades: no weights to download, for the tiny profile (dependencies.md §4)."""

import threading
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.errors import LoadError
from pipelines.faces.detection import Attempt, Detection

ARCFACE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
"""ArcFace's canonical five points in its 112 pixel crop (insightface.utils.face_align.arcface_dst)."""

EYES_IN_BOX = np.array([[0.27, 0.38], [0.73, 0.38]], dtype=np.float32)
"""Where the eyes usually lie in the frontal cascade's box, in parts of its side."""


class HaarDetector:
    """Frontal faces, with keypoints extrapolated from the eyes (or from the box where the eyes are not found)."""

    # Close crops need a margin; smaller pictures only add false hits, because the cascade scans all scales anyway.
    attempts: tuple[Attempt, ...] = (Attempt(), Attempt(padding=0.25), Attempt(padding=0.5))

    def __init__(self) -> None:
        self._faces = _cascade("haarcascade_frontalface_default.xml")
        self._eyes = _cascade("haarcascade_eye.xml")
        self._lock = threading.Lock()  # a cascade keeps buffers between calls

    def detect(self, bgr: NDArray[np.uint8], side: int) -> list[Detection]:
        """The faces in `bgr` (H, W, 3), searched at a size of at most `side` pixels; the score is always 1."""
        scale = min(1.0, side / max(bgr.shape[:2]))
        gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False)
        if scale < 1:
            size = max(1, round(gray.shape[1] * scale)), max(1, round(gray.shape[0] * scale))
            gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        with self._lock:
            boxes = self._faces.detectMultiScale(gray, scaleFactor=1.1, minNeighbors=5)
            return [self._detection(gray, np.asarray(box, np.float32), scale) for box in boxes]

    def _detection(self, gray: NDArray[np.uint8], box: NDArray[np.float32], scale: float) -> Detection:
        x, y, width, height = box
        eyes = self._find_eyes(gray, box)
        if eyes is None:
            eyes = (box[:2] + EYES_IN_BOX * box[2:]).astype(np.float32)
        corners = np.array([x, y, x + width, y + height], dtype=np.float32)
        return Detection(bbox=corners / np.float32(scale), kps=five_points(eyes) / np.float32(scale), score=1.0)

    def _find_eyes(self, gray: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Centres (2, 2) of the viewer's left and right eye, when exactly one plausible pair is found."""
        x, y, width, height = box.astype(int)
        upper = np.ascontiguousarray(gray[y : y + int(height * 0.6), x : x + width])
        found = self._eyes.detectMultiScale(upper, scaleFactor=1.05, minNeighbors=5)
        centres = [np.array([x + ex + ew / 2, y + ey + eh / 2], np.float32) for ex, ey, ew, eh in found]
        left = [eye for eye in centres if eye[0] < x + width / 2]
        right = [eye for eye in centres if eye[0] >= x + width / 2]
        if len(left) != 1 or len(right) != 1:
            return None
        apart, drop = right[0] - left[0]
        plausible = 0.3 * width < apart < 0.65 * width and abs(drop) < 0.35 * apart
        return np.stack([left[0], right[0]]) if plausible else None


def five_points(eyes: NDArray[np.float32]) -> NDArray[np.float32]:
    """ArcFace's canonical face (5, 2), turned and scaled so that its eyes come to lie on `eyes` (2, 2), in pixels."""
    canonical = ARCFACE[:, 0] + 1j * ARCFACE[:, 1]
    wanted = eyes[:, 0] + 1j * eyes[:, 1]
    turn = (wanted[1] - wanted[0]) / (canonical[1] - canonical[0])
    points = wanted[0] + (canonical - canonical[0]) * turn
    return np.stack([points.real, points.imag], axis=1).astype(np.float32)


def _cascade(name: str) -> cv2.CascadeClassifier:
    path = Path(cv2.__file__).parent / "data" / name
    if not path.is_file():
        raise LoadError(f"{path} is missing: OpenCV 5 has no Haar cascades; install opencv-python-headless>=4.14,<5")
    return cv2.CascadeClassifier(str(path))
