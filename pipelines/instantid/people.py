"""Where the people in a photo are, by YOLOX (arXiv:2107.08430; the ONNX files of its release 0.1.1rc0)."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.errors import LoadError
from pipelines.faces.onnx import open_session, try_picture

STRIDES = (8, 16, 32)
BORDER = 114
"""Grey of what the photo does not fill in YOLOX's square input."""

BOX, PERSON = 4, 5
"""Columns of a row of its output: centre and size, then whether there is anything, then whether that is a person."""

MIN_SCORE, NMS = 0.3, 0.45
"""As DWPose's detector keeps people."""


class PersonDetector:
    """Finds people at one fixed input size. Safe to call from several threads."""

    def __init__(self, path: Path, device: str) -> None:
        """Open YOLOX's ONNX file. Raises LoadError when it is missing or something else, or `device` cannot be had."""
        self._session: Any = open_session(path, device)
        (width, height), shapes = try_picture(self._session, path)
        rows = sum((width // stride) ** 2 for stride in STRIDES)
        if width != height or len(shapes[0]) != 3 or shapes[0][:2] != (1, rows) or shapes[0][2] <= PERSON:
            raise LoadError(f"{path} is not a YOLOX model: from {width}x{height} it makes {shapes}. Download it again.")
        self._input, self._side = self._session.get_inputs()[0].name, width
        self._grid, self._stride = anchors(self._side)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Boxes (N, 4) x1 y1 x2 y2 in pixels of `rgb` (H, W, 3), best first; they may reach beyond it."""
        scale = self._side / max(rgb.shape[:2])
        rows = self._session.run(None, {self._input: self._letterbox(rgb, scale)})[0][0]  # (8400, 85)
        scores = rows[:, BOX] * rows[:, PERSON]
        sure = scores > MIN_SCORE
        unit = self._stride[sure] / scale
        centres = (rows[sure, :2] + self._grid[sure]) * unit
        sizes = np.exp(rows[sure, 2:BOX]) * unit
        boxes = np.concatenate([centres - sizes / 2, sizes], axis=1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores[sure].tolist(), MIN_SCORE, NMS)
        best = boxes[np.asarray(kept, int).reshape(-1)]
        return np.concatenate([best[:, :2], best[:, :2] + best[:, 2:]], axis=1).astype(np.float32)

    def _letterbox(self, rgb: NDArray[np.uint8], scale: float) -> NDArray[np.float32]:
        """The photo at the top left of a grey square: (1, 3, side, side), BGR, 0..255."""
        height, width = (max(1, int(side * scale)) for side in rgb.shape[:2])
        square = np.full((self._side, self._side, 3), BORDER, np.uint8)
        square[:height, :width] = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(square[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32)


def anchors(side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Grid position (N, 2) x y and stride (N, 1) of every row of the output for an input of `side` pixels."""
    counts = [side // stride for stride in STRIDES]
    grids = [np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2) for n in counts]
    strides = [np.full((n * n, 1), stride) for n, stride in zip(counts, STRIDES, strict=True)]
    return np.concatenate(grids).astype(np.float32), np.concatenate(strides).astype(np.float32)
