"""The person in a photo: where the face is and who it is, for both models (instantid.md §A3, pulid.md §A3-A4)."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pipelines.faces.align import align
from pipelines.faces.detection import Detection, Detector, find
from pipelines.faces.haar import HaarDetector
from pipelines.faces.onnx import open_model, require_file
from pipelines.faces.scrfd import FILE as SCRFD_FILE
from pipelines.faces.scrfd import ScrfdDetector
from pipelines.profile import Profile
from pipelines.shelf import Shelf

ARCFACE_FILE = "glintr100.onnx"


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a photo.

    Args:
        bbox: (4,) float32, x1 y1 x2 y2 in pixels; may reach beyond the photo.
        kps: (5, 2) float32 pixels: left eye, right eye (the viewer's left and right), nose, mouth corners.
        score: the detector's confidence, 0..1.
        embedding: (512,) float32, ArcFace's raw output, not normalised (norm about 15 to 25).
    """

    bbox: NDArray[np.float32]
    kps: NDArray[np.float32]
    score: float
    embedding: NDArray[np.float32]


class FaceAnalysis(Protocol):
    """What a pipeline asks about a photo. Safe to call from several threads."""

    def largest(self, image: PILImage.Image, retry: bool = True) -> Face | None:
        """The face with the largest box, or None when there is none.

        Args:
            retry: look again, in other ways, when the first look finds nothing.
        """
        ...

    def crop(self, image: PILImage.Image, face: Face) -> NDArray[np.uint8]:
        """The aligned portrait of `face`: (512, 512, 3) uint8 RGB."""
        ...


class FaceAnalyser:
    """FaceAnalysis by a detector and insightface's ArcFace."""

    def __init__(self, detector: Detector, recogniser: Any) -> None:
        self._detector = detector
        self._recogniser = recogniser

    def largest(self, image: PILImage.Image, retry: bool = True) -> Face | None:
        """The face with the largest box, as in both upstream programs; of equal ones the last found."""
        from insightface.app.common import Face as RecognisedFace  # noqa: PLC0415  see load_faces

        bgr = np.ascontiguousarray(_rgb(image)[:, :, ::-1])
        found = sorted(find(self._detector, bgr, retry), key=_area)
        if not found:
            return None
        face = found[-1]
        embedding = self._recogniser.get(bgr, RecognisedFace(kps=face.kps))
        return Face(face.bbox, face.kps, face.score, np.asarray(embedding, dtype=np.float32))

    def crop(self, image: PILImage.Image, face: Face) -> NDArray[np.uint8]:
        """See `align`."""
        return align(_rgb(image), face.kps)


def load_faces(folder: Path, profile: Profile, shelf: Shelf | None = None) -> FaceAnalysis:
    """The analyser that `profile` asks for, on `profile.device`, or the one from the shelf made of the same files.

    Args:
        folder: holds glintr100.onnx and, for the detector ``"scrfd"``, scrfd_10g_bnkps.onnx. Other files are ignored
            and nothing is downloaded.

    Raises:
        LoadError: a file is missing or is not what its name says, or onnxruntime cannot use `profile.device`.
    """
    from insightface.model_zoo import ArcFaceONNX  # noqa: PLC0415  not needed where faces are given, as on a bare GPU

    # insightface's alignment calls what scikit-image has deprecated, once per face
    warnings.filterwarnings("ignore", ".*estimate.*is deprecated", FutureWarning, module="insightface")
    names = [ARCFACE_FILE] if profile.detector == "haar" else [SCRFD_FILE, ARCFACE_FILE]
    for name in names:
        require_file(folder / name)

    def make() -> FaceAnalyser:
        detector = HaarDetector() if profile.detector == "haar" else ScrfdDetector(folder, profile.device)
        return FaceAnalyser(detector, open_model(folder / ARCFACE_FILE, ArcFaceONNX, profile.device))

    return (shelf or Shelf()).get((FaceAnalyser, profile), [folder / name for name in names], make)


def _rgb(image: PILImage.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB"))


def _area(face: Detection) -> float:
    x1, y1, x2, y2 = face.bbox
    return float((x2 - x1) * (y2 - y1))
