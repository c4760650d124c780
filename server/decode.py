"""Bytes of unknown origin -> an upright RGB image, or an error that names the field. By content, never by name."""

import io

from PIL import Image as PILImage
from PIL import ImageOps

from pipelines.endpoint import Loc
from pipelines.errors import ImageTooLarge, InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
"""What fal's own page accepts (fal-protocol.md §9); of an animation, the first frame."""

SUFFIXES = ["jpg", "jpeg", "png", "webp", "gif", "avif"]
OTHER_FORMATS = (b"%PDF", b"%!PS", b"8BPS", b"II*\0", b"MM\0*", b"BM", b"SIMPLE", b"\0\0\1\0", b"\0\0\0\x0cjP", b"<svg")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")

# Pillow's limit is one number per process and only warns at first; ours, below, is checked before any pixel is decoded.
PILImage.MAX_IMAGE_PIXELS = None


class ImageLoadError(InputError):
    """The image could not be loaded: the file is damaged or is no image."""

    type = "image_load_error"


class UnsupportedImageFormat(InputError):
    """The image's format is not supported: send a JPEG, PNG, WebP, GIF or AVIF file."""

    type = "unsupported_image_format"


def decode(loc: Loc, data: bytes, max_pixels: int) -> PILImage.Image:
    """The image in `data`: RGB, turned as its EXIF says, without metadata; transparent pixels on white.

    An embedded colour profile is ignored, as the models' own code does. 16-bit samples are cut to their upper byte.

    Raises:
        InputError: image_load_error, unsupported_image_format, or image_too_large beyond `max_pixels`.
    """
    try:
        with PILImage.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageTooLarge(loc, f"The image has more than {max_pixels / 1e6:g} megapixels.", _side(max_pixels))
            image.load()
            return upright(image)
    except InputError:
        raise
    except PILImage.UnidentifiedImageError:
        if data.lstrip()[:16].startswith(OTHER_FORMATS) or data[8:12] in HEIF_BRANDS:
            raise UnsupportedImageFormat(loc, ctx={"supported_formats": SUFFIXES}) from None
        raise ImageLoadError(loc) from None
    except Exception:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more for damaged files
        raise ImageLoadError(loc) from None


def content_type_of(data: bytes) -> str:
    """The media type that the content itself shows, for the formats above; else application/octet-stream."""
    try:
        with PILImage.open(io.BytesIO(data), formats=FORMATS) as image:
            return PILImage.MIME[image.format or ""]
    except Exception:  # as in decode
        return "application/octet-stream"


def upright(image: PILImage.Image) -> PILImage.Image:
    """A copy in RGB, turned as the EXIF orientation says; without EXIF (place, camera), text or profile."""
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the orientation
        turned = image
    rgb = _rgb(turned)
    clean = PILImage.new("RGB", rgb.size)
    clean.paste(rgb)
    return clean


def _rgb(image: PILImage.Image) -> PILImage.Image:
    if image.mode == "I;16":  # a PNG of 16-bit greys: two bytes each, the upper one second
        return PILImage.frombytes("L", image.size, image.tobytes()[1::2]).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        return PILImage.alpha_composite(PILImage.new("RGBA", image.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def _side(max_pixels: int) -> dict[str, int]:
    side = int(max_pixels**0.5)
    return {"max_width": side, "max_height": side}
