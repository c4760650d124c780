"""What is an image, how it is read, and which field is blamed (faults.md rows 62 to 70)."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.errors import ImageTooLarge
from server.decode import ImageLoadError, UnsupportedImageFormat, decode
from tests.pictures import encoded, picture

LOC = ("reference_images", 2, "image_url")
PNG = encoded(picture())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_the_formats_of_fals_page_are_read(kind):
    image = decode(LOC, encoded(picture(), kind), 10**6)
    assert (image.mode, image.size, image.info) == ("RGB", (40, 30), {})
    assert np.abs(np.asarray(image, int) - np.asarray(picture(), int)).mean() < 12


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PDF", "JPEG2000", "ICO", "EPS"])
def test_another_format_is_refused_by_its_content(kind):
    with pytest.raises(UnsupportedImageFormat) as caught:
        decode(LOC, encoded(picture((64, 64)), kind), 10**6)
    assert "png" in caught.value.ctx["supported_formats"]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"hello", b"<html>not found</html>", PNG[:60], PNG[:-30], encoded(picture(), "JPEG")[:300]),
        *(b"\xff\xd8\xff", PNG[:45] + b"\0\0\0\0" + PNG[49:], b"\x89PNG\r\n\x1a\n" + bytes(100)),
    ],
)
def test_a_damaged_file_is_blamed_on_its_field(data):
    with pytest.raises(ImageLoadError) as caught:
        decode(LOC, data, 10**6)
    assert caught.value.loc == LOC


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def test_a_huge_picture_is_refused_from_its_header():
    with pytest.raises(ImageTooLarge) as caught:
        decode(LOC, png_of(30_000, 30_000), 64_000_000)
    assert caught.value.ctx == {"max_width": 8000, "max_height": 8000}


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_a_picture_without_pixels_is_damaged(size):
    with pytest.raises(ImageLoadError):
        decode(LOC, png_of(*size), 10**6)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_compressed_text_bomb_is_bounded(kind):
    bomb = chunk(kind, b"x\0\0" + zlib.compress(bytes(200_000_000)))
    with pytest.raises(ImageLoadError):
        decode(LOC, png_of(10, 10, bomb), 10**6)


def test_a_broken_colour_profile_is_ignored():
    data = encoded(picture(), "PNG", icc_profile=b"nonsense")
    assert decode(LOC, data, 10**6).size == (40, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_becomes_upright_and_the_place_is_forgotten(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825)[1] = "N"
    turned = Image.open(io.BytesIO(encoded(picture(), "PNG", exif=exif)))
    image = decode(LOC, encoded(picture(), "PNG", exif=exif), 10**6)
    assert np.array_equal(np.asarray(image), np.asarray(ImageOps.exif_transpose(turned)))
    assert (image.info, len(image.getexif())) == ({}, 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so, too; a server only logs it
def test_damaged_exif_does_no_harm():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    assert decode(LOC, data, 10**6).size == (40, 30)


def test_sixteen_bits_are_cut_to_their_upper_eight():
    grey = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    read = np.asarray(decode(LOC, encoded(grey), 10**6))
    assert np.array_equal(read[..., 0].ravel(), np.arange(256))


def test_cmyk_becomes_rgb():
    image = decode(LOC, encoded(picture().convert("CMYK"), "JPEG", quality=95), 10**6)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image, int) - np.asarray(picture(), int)).mean() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_pixels_become_white(mode):
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    data = encoded(image.convert("P" if mode in {"P", "PA"} else mode))
    pixels = np.asarray(decode(LOC, data, 10**6))
    assert (pixels[:, :4] == 0).all()
    assert (pixels[:, 4:] == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert decode(LOC, data, 10**6).getpixel((8, 8)) == (255, 0, 0)
