"""The picture of five keypoints that IdentityNet was trained on (instantid.md §A4; upstream draw_kps)."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
"""RGB of left eye, right eye, nose, left and right mouth corner."""

NOSE = 2
RADIUS, HALF_WIDTH = 10, 4
"""Of a keypoint's disc and of a limb, in pixels whatever the picture's size."""

LIMB_BRIGHTNESS = 0.6


def draw_kps(size: tuple[int, int], kps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Limbs from every keypoint to the nose, then a disc on every keypoint, on black.

    Args:
        size: (width, height) in pixels.
        kps: (5, 2) float32 pixels, in the order of COLOURS; may lie outside.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    canvas = np.zeros((size[1], size[0], 3), np.float64)
    for i in (0, 1, 3, 4):
        cv2.fillConvexPoly(canvas, limb(kps[i], kps[NOSE]), COLOURS[i])
    image = (canvas * LIMB_BRIGHTNESS).astype(np.uint8)
    for (x, y), colour in zip(kps, COLOURS, strict=True):
        cv2.circle(image, (int(x), int(y)), RADIUS, colour, thickness=-1)
    return image


def limb(start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.int32]:
    """Outline of a thin ellipse from `start` to `end`: (N, 2) pixels; every number truncated towards zero."""
    x, y = (start + end) / 2
    dx, dy = start - end
    angle = int(math.degrees(math.atan2(dy, dx)))
    half_length = int(np.sqrt(dx * dx + dy * dy) / 2)
    return np.asarray(cv2.ellipse2Poly((int(x), int(y)), (half_length, HALF_WIDTH), angle, 0, 360, 1), np.int32)
