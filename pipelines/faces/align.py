"""The aligned portrait crop that PuLID's networks were trained on (pulid.md §A4; facexlib's FFHQ template)."""

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 512
TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ],
    dtype=np.float32,
)
"""Where left eye, right eye, nose, left and right mouth corner go, in pixels of the 512 crop (left is the viewer's)."""

BORDER_RGB = (132, 133, 135)
"""What lies outside the photo: facexlib's (135, 133, 132), which it writes in BGR order."""


def align(image: NDArray[np.uint8], kps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn, scale and shift a photo so that the five keypoints come to lie on TEMPLATE.

    Args:
        image: (H, W, 3) uint8 RGB.
        kps: (5, 2) float32, pixels of `image`, in TEMPLATE's order.

    Returns:
        (512, 512, 3) uint8 RGB.

    Raises:
        ValueError: the keypoints coincide, so that no similarity transform exists.
    """
    matrix, _ = cv2.estimateAffinePartial2D(kps, TEMPLATE, method=cv2.LMEDS)
    if matrix is None:
        raise ValueError("the five keypoints coincide: they describe no face")
    crop = cv2.warpAffine(image, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER_RGB)
    return crop.astype(np.uint8, copy=False)
