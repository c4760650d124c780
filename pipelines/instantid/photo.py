"""The photo at the output's size, and the face's box in it (instantid.md §A2, §A7)."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from pipelines.errors import ImageTooSmall

MIN_SIDE = 1024
"""Upstream first brings the shorter side here; the longer side then overrides it up to rounding."""

MULTIPLE = 64

Size = tuple[int, int]
Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, inside the picture."""


def fitted_sizes(size: Size, max_side: int, min_side: int = MIN_SIDE) -> tuple[Size, Size]:
    """The two sizes (width, height) that a photo is resized to: longest side `max_side`, then floored to 64."""
    shorter = min_side / min(size)
    first = round(shorter * size[0]), round(shorter * size[1])
    longer = max_side / max(first)
    exact = round(longer * first[0]), round(longer * first[1])
    return exact, (exact[0] // MULTIPLE * MULTIPLE, exact[1] // MULTIPLE * MULTIPLE)


def fit(photo: Image, max_side: int, min_side: int = MIN_SIDE) -> Image:
    """The photo with its longest side `max_side`, both sides multiples of 64; enlarged or shrunk, bilinear twice.

    Raises:
        ImageTooSmall: the photo is so thin that its shorter side would vanish; the field is ``face_image_url``.
    """
    exact, final = fitted_sizes(photo.size, max_side, min_side)
    if min(final) < MULTIPLE:
        least = math.ceil(MULTIPLE * max(photo.size) / max_side)
        raise ImageTooSmall(
            ("face_image_url",),
            f"The image is too narrow: {photo.width}x{photo.height}. Crop it so that its shorter side has at least "
            f"{least} pixels.",
            {"min_width": least, "min_height": least},
        )
    return photo.resize(exact, Resampling.BILINEAR).resize(final, Resampling.BILINEAR)


def clamp_box(bbox: NDArray[np.float32], size: Size) -> Box:
    """A detected box in whole pixels inside the picture.

    Upstream lets negative corners wrap around, which empties the mask and silently drops the identity (§A7).
    """
    x1, y1, x2, y2 = (max(0, int(v)) for v in bbox)
    return min(x1, size[0]), min(y1, size[1]), min(x2, size[0]), min(y2, size[1])
