"""Control images from the photo, for the ControlNets beside IdentityNet (instantid.md §A6)."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from pipelines.errors import FeatureNotSupported, InputError
from pipelines.instantid import depth, pose
from pipelines.instantid.endpoint import Control, ControlName
from pipelines.instantid.photo import Size
from pipelines.profile import Profile

FIELD = ("controlnet_selection",)

FOLDERS: dict[ControlName, tuple[str, ...]] = {
    "canny": ("controlnet-canny",),
    "pose": ("controlnet-pose",),
    "depth": ("controlnet-depth-small", "controlnet-depth"),
}
"""Where each ControlNet lies in the model's folder; the first that exists."""

CANNY_THRESHOLDS = (100, 200)

Estimator = Callable[[Image], NDArray[np.uint8]]
"""Draws a control image (H, W, 3) uint8 RGB of the photo's size."""


@dataclass(frozen=True)
class Source:
    """Where an estimator's weights are: a checkpoint, with its folder below the weights folder called the same."""

    checkpoint: str
    files: tuple[str, ...]
    load: Callable[[Path, Profile], Estimator]


SOURCES: dict[ControlName, Source] = {
    "depth": Source("depth-anything-v2-small", depth.FILES, depth.DepthEstimator),
    "pose": Source("dwpose", pose.FILES, pose.PoseEstimator),
}


@dataclass(frozen=True, eq=False)
class ControlImage:
    """What one ControlNet is given: scale, and image (H, W, 3) uint8 RGB of the output's size."""

    name: ControlName
    scale: float
    image: NDArray[np.uint8]


def canny(photo: Image) -> NDArray[np.uint8]:
    """Edges of an RGB photo: (H, W, 3) uint8, 0 or 255."""
    bgr = np.ascontiguousarray(np.asarray(photo)[:, :, ::-1])
    edges = cv2.Canny(bgr, *CANNY_THRESHOLDS)
    return np.repeat(edges[:, :, None], 3, axis=2).astype(np.uint8, copy=False)


class Estimators:
    """What draws control images from a photo; each reads its weights when it is first asked, once.

    Safe to call from several threads.
    """

    def __init__(self, root: Path | None = None, profile: Profile | None = None) -> None:
        """Nothing is read yet.

        Args:
            root: the weights folder, which may hold depth-anything-v2-small/ and dwpose/; canny needs none.
        """
        self._root = root
        self._profile = profile or Profile()
        self._loaded: dict[ControlName, Estimator] = {"canny": canny}
        self._lock = threading.Lock()

    def draw(self, name: ControlName, photo: Image) -> NDArray[np.uint8]:
        """The control image (H, W, 3) uint8 RGB of the photo's size.

        Raises:
            FeatureNotSupported: this estimator's weights are not installed. InputError: nothing to draw in the photo.
            LoadError: its weights are not what they should be.
        """
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
        return self._loaded[name](photo)

    def _load(self, name: ControlName) -> Estimator:
        source = SOURCES[name]
        folder = self._root and self._root / source.checkpoint
        if not folder or not all((folder / file).is_file() for file in source.files):
            raise FeatureNotSupported(
                FIELD,
                f"This server cannot make a {name} image from a photo: its operator has not installed the estimator "
                f"(`veraicon weights pull {source.checkpoint}`). Choose canny, or null for none.",
            )
        return source.load(folder, self._profile)


def control_image(control: Control, photo: Image | None, size: Size, estimators: Estimators) -> ControlImage:
    """The given control image at the output's size, or one made from the photo, which has that size.

    Raises:
        InputError: there is no photo to make it from, or it shows nothing of the kind. FeatureNotSupported: this server
            has no estimator for this control. LoadError: its weights are not what they should be.
    """
    if control.image is not None:
        image = at_size(control.image.convert("RGB"), size)
    elif photo is None:
        raise InputError(FIELD, f"There is no photo to make a {control.name} image from. Choose null, or give a photo.")
    else:
        image = estimators.draw(control.name, photo)
    return ControlImage(control.name, control.scale, image)


def at_size(image: Image, size: Size) -> NDArray[np.uint8]:
    """(H, W, 3) of this size; Lanczos only when it differs (§A14)."""
    return np.array(image if image.size == size else image.resize(size, Resampling.LANCZOS))
