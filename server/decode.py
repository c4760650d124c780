"""Bytes of unknown origin -> an upright RGB image, or an error that names the field. By content, never by name."""

import io
from collections.abc import Sequence

from PIL import Image as PILImage
from PIL import ImageCms, ImageOps

from pipelines.endpoint import Loc
from pipelines.errors import ImageTooLarge, InputError
from server.settings import IMAGE_FORMATS

OTHER_FORMATS = (
    *(b"%PDF", b"%!PS", b"8BPS", b"II*\0", b"MM\0*", b"BM", b"SIMPLE", b"\0\0\1\0", b"\0\0\0\x0cjP", b"<svg"),
    b"GIF8",
)
LARGEST_PROFILE = 4 * 1024 * 1024
"""Bytes of a colour profile that is still applied; those of printing presses are 2 MB."""

# Pillow's limit is one number per process and only warns at first; ours, below, is checked before any pixel is decoded.
PILImage.MAX_IMAGE_PIXELS = None


class ImageLoadError(InputError):
    """The image could not be loaded: the file is damaged or is no image."""

    type = "image_load_error"


class UnsupportedImageFormat(InputError):
    """The image's format is not one that this server reads: send a JPEG, PNG or WebP file."""

    type = "unsupported_image_format"


def decode(loc: Loc, data: bytes, max_pixels: int, formats: Sequence[str]) -> PILImage.Image:
    """The image in `data`: sRGB, turned as its EXIF says, without metadata; transparent pixels on white.

    An embedded colour profile is applied, a broken one ignored. 16-bit samples are cut to their upper byte. Of an
    animation the first frame.

    Args:
        formats: keys of IMAGE_FORMATS; told by content, never by a name or a declared type.

    Raises:
        InputError: image_load_error, unsupported_image_format, or image_too_large beyond `max_pixels`.
    """
    try:
        with PILImage.open(io.BytesIO(data), formats=[name.upper() for name in formats]) as image:
            if image.width * image.height > max_pixels:
                raise ImageTooLarge(loc, f"The image has more than {max_pixels / 1e6:g} megapixels.", _side(max_pixels))
            image.load()
            return upright(image)
    except InputError:
        raise
    except PILImage.UnidentifiedImageError:
        if data.lstrip()[:16].startswith(OTHER_FORMATS) or data[4:8] == b"ftyp":  # HEIC and AVIF are ISO media files
            supported = [suffix for name in formats for suffix in IMAGE_FORMATS[name]]
            raise UnsupportedImageFormat(loc, ctx={"supported_formats": supported}) from None
        raise ImageLoadError(loc) from None
    except Exception:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more for damaged files
        raise ImageLoadError(loc) from None


def content_type_of(data: bytes) -> str:
    """The media type that the content itself shows, for any of IMAGE_FORMATS; else application/octet-stream."""
    try:
        with PILImage.open(io.BytesIO(data), formats=[name.upper() for name in IMAGE_FORMATS]) as image:
            return PILImage.MIME[image.format or ""]
    except Exception:  # as in decode
        return "application/octet-stream"


def upright(image: PILImage.Image) -> PILImage.Image:
    """A copy in RGB, turned as the EXIF orientation says; without EXIF (place, camera), text or profile."""
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the orientation
        turned = image
    rgb = _rgb(_srgb(turned))
    clean = PILImage.new("RGB", rgb.size)
    clean.paste(rgb)
    return clean


def _srgb(image: PILImage.Image) -> PILImage.Image:
    """The image with its colour profile applied: RGB, RGBA or as it was where there is none that can be used."""
    profile = image.info.get("icc_profile")
    if not profile or len(profile) > LARGEST_PROFILE:
        return image
    if image.mode == "P":  # a palette's profile is about the colours that it lists
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(embedded).startswith("sRGB"):
            return image  # not a bit of what most pictures hold may change
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or of another colour model than the pixels
        return image


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
