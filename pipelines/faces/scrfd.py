"""Faces by SCRFD through insightface (instantid.md §A3): the real detector of both models."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import LoadError
from pipelines.faces.detection import Attempt, Detection
from pipelines.faces.onnx import open_model, provider_of, require_provider

FILE = "scrfd_10g_bnkps.onnx"
THRESHOLD, NMS = 0.5, 0.4


class ScrfdDetector:
    """SCRFD at 640, as upstream; then, for close crops, with a margin and at smaller input sizes."""

    attempts: tuple[Attempt, ...] = (
        Attempt(),
        Attempt(padding=0.25),
        Attempt(padding=0.5),
        Attempt(side=384),
        Attempt(side=256),
    )

    def __init__(self, folder: Path, device: str) -> None:
        """Open `folder`/scrfd_10g_bnkps.onnx and run every input size once. Raises LoadError."""
        from insightface.model_zoo import SCRFD  # noqa: PLC0415  see pipelines.faces.onnx

        path = folder / FILE
        self._model = open_model(path, SCRFD, device)
        if not self._model.use_kps:
            raise LoadError(f"{path} is a detector without keypoints; {FILE} of antelopev2 is needed")
        self._model.prepare(0, input_size=(640, 640), det_thresh=THRESHOLD, nms_thresh=NMS)
        # insightface opens one session per input size, on first use
        for side in {attempt.side for attempt in self.attempts}:
            self.detect(np.zeros((side, side, 3), np.uint8), side)
        for session in self._model.resolution_sessions.values():
            require_provider(path, session, provider_of(device))

    def detect(self, bgr: NDArray[np.uint8], side: int) -> list[Detection]:
        """The faces in `bgr` (H, W, 3), letterboxed into `side` x `side`; nothing is kept on the detector."""
        height, width = bgr.shape[:2]
        if side * min(height, width) < max(height, width):
            return []  # so thin that insightface would shrink it to nothing
        boxes, points = self._model.detect(bgr, input_size=(side, side))
        return [
            Detection(box[:4].astype(np.float32), kps.astype(np.float32), float(box[4]))
            for box, kps in zip(boxes, np.asarray(points), strict=True)
        ]
