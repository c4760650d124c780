"""Whether a picture shows the person: the cosine of two ArcFace embeddings, as both papers measure fidelity."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pipelines.endpoint import Measure
from pipelines.faces.analysis import FaceAnalysis

DIGITS = 4
"""Of the cosine: more than a person sees, fewer than devices differ by."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """The person whom a picture is to show: `embedding` (512,) float32 is the reference face's, by `faces`."""

    faces: FaceAnalysis
    embedding: NDArray[np.float32]

    def metrics(self, picture: NDArray[np.uint8]) -> Mapping[str, Measure]:
        """What can be measured of a picture (H, W, 3) uint8 RGB, later and on another thread."""
        return {"identity_similarity": partial(self.similarity, picture)}

    def similarity(self, picture: NDArray[np.uint8]) -> float | None:
        """-1..1, 1 is the same face; None when the picture shows none. Looks once, to bound the cost."""
        face = self.faces.largest(PILImage.fromarray(picture), retry=False)
        return None if face is None else cosine(self.embedding, face.embedding)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """The cosine between two vectors of any length, rounded; None where one of them has no direction."""
    first, second = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    if not np.isfinite(lengths) or lengths == 0:
        return None
    return round(float(np.clip(first @ second / lengths, -1, 1)), DIGITS)
