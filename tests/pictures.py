"""Small pictures for tests, and how they travel."""

import base64
import io

import numpy as np
from PIL import Image


def picture(size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A colour gradient: every pixel, row and column differs."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def data_uri(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"
