"""OpenPose's picture of bodies, which pose ControlNets were trained on (controlnet_aux draw_bodypose; §A6)."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.instantid.keypoints import limb
from pipelines.instantid.photo import Size

Body = NDArray[np.float32]
"""(18, 2) pixels in OpenPose's order: nose, neck, then shoulder, elbow, wrist of the right and of the left arm, hip,
knee, ankle of the right and of the left leg, right and left eye, right and left ear; NaN where not seen."""

LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7)),  # arms
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),  # legs
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),  # head
)
"""Pairs of indices into a Body; the n-th is drawn in the n-th of COLOURS, as is the n-th keypoint."""

COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
"""RGB, once around the colour wheel."""

RADIUS, LIMB_BRIGHTNESS = 4, 0.6
"""Of a keypoint's disc in pixels; a limb's half width is keypoints.HALF_WIDTH, also 4."""

SHORT_SIDE, MULTIPLE = 512, 64
"""Of the canvas that upstream's call draws on, whatever the photo's size."""


def draw_bodies(size: Size, bodies: Sequence[Body]) -> NDArray[np.uint8]:
    """All bodies on one black picture: drawn at upstream's canvas size, then resized (bicubic), lines and all.

    Args:
        size: (width, height) in pixels, to which the bodies' coordinates refer.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    width, height = canvas_size(size)
    scale = np.array([width / size[0], height / size[1]], np.float32)
    canvas = np.zeros((height, width, 3), np.uint8)
    for body in bodies:
        draw_limbs(canvas, body * scale)
    for body in bodies:
        draw_keypoints(canvas, body * scale)
    return np.array(Image.fromarray(canvas).resize(size))


def canvas_size(size: Size) -> Size:
    """(width, height) with the shorter side 512, both rounded to multiples of 64."""
    scale = SHORT_SIDE / min(size)
    return round(size[0] * scale / MULTIPLE) * MULTIPLE, round(size[1] * scale / MULTIPLE) * MULTIPLE


def draw_limbs(canvas: NDArray[np.uint8], body: Body) -> None:
    """Dimmed limbs between keypoints that were both seen, onto `canvas`."""
    for (start, end), colour in zip(LIMBS, COLOURS, strict=False):
        if np.isfinite(body[[start, end]]).all():
            dimmed = [int(channel * LIMB_BRIGHTNESS) for channel in colour]
            cv2.fillConvexPoly(canvas, limb(body[start], body[end]), dimmed)


def draw_keypoints(canvas: NDArray[np.uint8], body: Body) -> None:
    """A disc on every keypoint that was seen, onto `canvas`."""
    for (x, y), colour in zip(body, COLOURS, strict=True):
        if np.isfinite(x):
            cv2.circle(canvas, (int(x), int(y)), RADIUS, colour, thickness=-1)
