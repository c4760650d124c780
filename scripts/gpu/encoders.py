"""Pixels to PNG files: as the server writes them, where its compressor is installed, and as Pillow does by default."""

import importlib.util
import io
from pathlib import Path

import cv2
from PIL import Image

from scripts.gpu.columns import Encode, Pixels

SERVERS = Path(__file__).parents[2] / "server" / "png.py"


def servers_encoder() -> tuple[str, Encode]:
    """Its name, and the server's own encoder, read from its file because the server is not installed on a bare machine.

    OpenCV's where isal, the compressor, is missing: then the name says so.
    """
    if importlib.util.find_spec("isal") is None:
        return "cv2, for isal is not installed", cv2_png
    spec = importlib.util.spec_from_file_location("png", SERVERS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "isal", module.encode


def cv2_png(pixels: Pixels) -> bytes:
    """OpenCV's, at its default level."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def pillow_png(pixels: Pixels) -> bytes:
    """Pillow's, at its default level: what both upstream programs do."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
