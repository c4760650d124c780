"""Faces found before: the same photo again costs its hash, not another look."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pipelines.cache import Cache, digest
from pipelines.faces.analysis import Face, FaceAnalysis


@dataclass(frozen=True)
class RememberedFaces:
    """FaceAnalysis that keeps what `faces` found in `cache`, by the photo's pixels."""

    faces: FaceAnalysis
    cache: Cache

    def largest(self, image: PILImage.Image, retry: bool = True) -> Face | None:
        """See FaceAnalysis."""
        key = ("face", retry, digest(np.asarray(image.convert("RGB"))))
        return self.cache.get(key, lambda: self.faces.largest(image, retry))

    def crop(self, image: PILImage.Image, face: Face) -> NDArray[np.uint8]:
        """See FaceAnalysis."""
        return self.faces.crop(image, face)
