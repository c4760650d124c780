"""Control images from the photo, for the ControlNets beside IdentityNet (instantid.md §A6)."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from pipelines.errors import FeatureNotSupported, InputError
from pipelines.instantid.endpoint import Control, ControlName
from pipelines.instantid.photo import Size

FIELD = ("controlnet_selection",)

FOLDERS: dict[ControlName, tuple[str, ...]] = {
    "canny": ("controlnet-canny",),
    "pose": ("controlnet-pose",),
    "depth": ("controlnet-depth-small", "controlnet-depth"),
}
"""Where each ControlNet lies in the model's folder; the first that exists."""

CANNY_THRESHOLDS = (100, 200)


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


ESTIMATORS = {"canny": canny}


def control_image(control: Control, photo: Image | None, size: Size) -> ControlImage:
    """The given control image at the output's size, or one made from the photo.

    Raises:
        FeatureNotSupported: there is no estimator for this control. InputError: there is no photo to make it from.
    """
    if control.image is not None:
        image = at_size(control.image.convert("RGB"), size)
    elif control.name not in ESTIMATORS:
        raise FeatureNotSupported(
            FIELD, f"This server cannot make a {control.name} image from a photo yet. Choose canny, or null for none."
        )
    elif photo is None:
        raise InputError(FIELD, f"There is no photo to make a {control.name} image from. Choose null, or give a photo.")
    else:
        image = ESTIMATORS[control.name](photo)
    return ControlImage(control.name, control.scale, image)


def at_size(image: Image, size: Size) -> NDArray[np.uint8]:
    """(H, W, 3) of this size; Lanczos only when it differs (§A14)."""
    return np.array(image if image.size == size else image.resize(size, Resampling.LANCZOS))
