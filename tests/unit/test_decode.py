"""What is an image, how it is read, and which field is blamed (faults.md rows 62 to 70)."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from pipelines.errors import ImageTooLarge
from server.decode import ImageLoadError, UnsupportedImageFormat, decode
from tests.pictures import encoded, picture

LOC = ("reference_images", 2, "image_url")
ALL = ("jpeg", "png", "webp", "gif", "avif")


def read(data: bytes, formats: Sequence[str] = ALL) -> Image.Image:
    return decode(LOC, data, 10**6, formats)


PNG = encoded(picture())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_the_formats_of_fals_page_are_read(kind):
    image = read(encoded(picture(), kind))
    assert (image.mode, image.size, image.info) == ("RGB", (40, 30), {})
    assert np.abs(np.asarray(image, int) - np.asarray(picture(), int)).mean() < 12


@pytest.mark.parametrize("kind", ["GIF", "AVIF"])
def test_a_format_that_the_operator_did_not_choose_is_refused(kind):
    """row 66."""
    with pytest.raises(UnsupportedImageFormat) as caught:
        read(encoded(picture(), kind), ("jpeg", "png", "webp"))
    assert caught.value.ctx == {"supported_formats": ["jpg", "jpeg", "png", "webp"]}


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PDF", "JPEG2000", "ICO", "EPS"])
def test_another_format_is_refused_by_its_content(kind):
    """row 66: whatever name or type it came under."""
    with pytest.raises(UnsupportedImageFormat) as caught:
        read(encoded(picture((64, 64)), kind))
    assert "png" in caught.value.ctx["supported_formats"]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"hello", b"<html>not found</html>", PNG[:60], PNG[:-30], encoded(picture(), "JPEG")[:300]),
        *(b"\xff\xd8\xff", PNG[:45] + b"\0\0\0\0" + PNG[49:], b"\x89PNG\r\n\x1a\n" + bytes(100)),
    ],
)
def test_a_damaged_file_is_blamed_on_its_field(data):
    """row 64: cut short, or with a checksum that is wrong."""
    with pytest.raises(ImageLoadError) as caught:
        read(data)
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
    """row 62."""
    with pytest.raises(ImageTooLarge) as caught:
        decode(LOC, png_of(30_000, 30_000), 64_000_000, ALL)
    assert caught.value.ctx == {"max_width": 8000, "max_height": 8000}


MEASURE = """
import resource, sys
from server.decode import decode
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
data, before = open(sys.argv[1], "rb").read(), peak()
try:
    decode((), data, 64_000_000, ["jpeg", "png", "webp"])
except Exception as error:
    print(type(error).__name__, peak() - before)
"""


@pytest.mark.parametrize("trap", ["pixels", "zTXt", "iCCP"])
def test_a_trap_costs_little_memory(tmp_path, trap):
    """row 62, row 65: 200 MB or 2.7 GB, if it were unpacked."""
    packed = b"x\0\0" + zlib.compress(bytes(200_000_000))
    data = png_of(30_000, 30_000) if trap == "pixels" else png_of(10, 10, chunk(trap.encode(), packed))
    (tmp_path / "trap.png").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "trap.png")], capture_output=True, text=True, check=True
    )
    refusal, megabytes = done.stdout.split()
    assert refusal == ("ImageTooLarge" if trap == "pixels" else "ImageLoadError")
    assert float(megabytes) < 50


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_a_picture_without_pixels_is_damaged(size):
    """row 63."""
    with pytest.raises(ImageLoadError):
        read(png_of(*size))


def profile_with_swapped_channels() -> bytes:
    """sRGB whose red and green primaries changed places: applying it swaps these channels, which nobody overlooks."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12):
        tag = bytes(profile[at : at + 4])
        profile[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(tag, tag)
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be"))


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB"), ("JPEG", "RGB")]
)
def test_a_colour_profile_is_applied(kind, mode):
    """row 68."""
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert(mode)
    pixel = read(encoded(red, kind, icc_profile=profile_with_swapped_channels(), **options)).getpixel((8, 8))
    assert np.abs(np.subtract(pixel, (0, 255, 0))).max() <= 3


def test_a_profile_of_grey_pixels_is_applied():
    """row 68."""
    grey = Image.new("L", (4, 4), 100)
    assert read(encoded(grey, icc_profile=profile_of_grey(gamma=1.0))).getpixel((0, 0)) == (168, 168, 168)


def profile_of_grey(gamma: float) -> bytes:
    """A minimal ICC v2 profile: white point D50 and one tone curve (ICC.1:2001, 6.3.1.2 and 6.5.3)."""
    xyz = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78) + bytes(3)
    tags, table, at = [(b"wtpt", xyz), (b"kTRC", curve), (b"desc", text)], b"", 128 + 4 + 3 * 12
    for name, body in tags:
        table, at = table + name + struct.pack(">2I", at, len(body)), at + len(body)
    header = bytearray(128)
    header[0:4], header[8:12] = struct.pack(">I", at), b"\2\x10\0\0"
    header[12:24], header[36:40], header[68:80] = b"mntrGRAYXYZ ", b"acsp", struct.pack(">3i", 63190, 65536, 54061)
    return bytes(header) + struct.pack(">I", 3) + table + b"".join(body for _, body in tags)


def test_the_profile_of_most_pictures_changes_no_bit():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(np.asarray(read(encoded(picture(), icc_profile=srgb))), np.asarray(picture()))


def test_a_profile_of_another_colour_model_is_ignored():
    """row 70."""
    data = encoded(picture(), icc_profile=profile_of_grey(gamma=1.0))
    assert np.array_equal(np.asarray(read(data)), np.asarray(picture()))


def test_a_broken_colour_profile_is_ignored():
    """row 70."""
    data = encoded(picture(), "PNG", icc_profile=b"nonsense")
    assert read(data).size == (40, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_becomes_upright_and_the_place_is_forgotten(orientation):
    """row 69."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825)[1] = "N"
    turned = Image.open(io.BytesIO(encoded(picture(), "PNG", exif=exif)))
    image = read(encoded(picture(), "PNG", exif=exif))
    assert np.array_equal(np.asarray(image), np.asarray(ImageOps.exif_transpose(turned)))
    assert (image.info, len(image.getexif())) == ({}, 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so, too; a server only logs it
def test_damaged_exif_does_no_harm():
    """row 69."""
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    assert read(data).size == (40, 30)


def test_sixteen_bits_are_cut_to_their_upper_eight():
    """row 68."""
    grey = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    pixels = np.asarray(read(encoded(grey)))
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(256))


def test_cmyk_becomes_rgb():
    """row 68."""
    image = read(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image, int) - np.asarray(picture(), int)).mean() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_pixels_become_white(mode):
    """row 68."""
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    data = encoded(image.convert("P" if mode in {"P", "PA"} else mode))
    pixels = np.asarray(read(data))
    assert (pixels[:, :4] == 0).all()
    assert (pixels[:, 4:] == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind):
    """row 67."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert read(data).getpixel((8, 8)) == (255, 0, 0)
