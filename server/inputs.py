"""A request's pictures: from a URL, a data URI or an own file to a checked, upright RGB image."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx2
from PIL import Image as PILImage

from pipelines.endpoint import ImageField
from pipelines.errors import Cancelled, InputError
from server.decode import content_type_of, decode
from server.files import FileMissing, FileStore, file_id_in
from server.outbound import Outbound, Refused, parse_url, pinned
from server.settings import Settings, formats_of

MAX_REDIRECTS = 5
LONGEST_URL = 2048  # fal's own limit (fal-protocol.md §4.2)
MEGABYTE = 1024 * 1024
REDIRECTS = (301, 302, 303, 307, 308)
LOOK_S = 0.2
"""How often a download looks whether it is still wanted."""


class FileDownloadError(InputError):
    """The image could not be downloaded from this URL."""

    type = "file_download_error"


class FileTooLarge(InputError):
    """The file is too large."""

    type = "file_too_large"


def always() -> bool:
    return True


def fetch(
    field: ImageField, settings: Settings, files: FileStore, wanted: Callable[[], bool] = always
) -> PILImage.Image:
    """The picture that `field` names.

    Args:
        wanted: asked often while it is downloaded, whether anybody still needs it.

    Returns:
        an upright RGB image without metadata.

    Raises:
        InputError: naming the field: file_download_error, file_too_large, image_load_error, image_too_large or
            unsupported_image_format.
        Cancelled: nobody needs it any more.
    """
    data = read(field, settings, files, wanted)
    return decode(field.loc, data, settings.max_image_mp * 1_000_000, formats_of(settings.image_formats))


def read(field: ImageField, settings: Settings, files: FileStore, wanted: Callable[[], bool] = always) -> bytes:
    """The bytes of the file that `field` names, at most max_image_mb of them. Raises like `fetch`."""
    limit = settings.max_image_mb * MEGABYTE
    if field.url.lstrip()[:5].lower() == "data:":
        return from_data_uri(field, limit)
    file_id = file_id_in(field.url)
    if file_id:
        try:
            if files.stat(file_id).size > limit:
                raise too_large(field, limit)
            return files.read(file_id)
        except FileMissing:
            if field.url.startswith("file:"):
                raise FileDownloadError(field.loc, "The file is no longer stored: upload it again.") from None
    downloading = download(field, Outbound.of(settings), limit, settings.fetch_timeout_s)
    return asyncio.run(while_wanted(downloading, wanted))


def decode_data_uri(field: ImageField, settings: Settings) -> tuple[bytes, str]:
    """The bytes of a data URI, and the content type that these show, whatever it says. Raises InputError."""
    data = from_data_uri(field, settings.max_image_mb * MEGABYTE)
    return data, content_type_of(data)


def from_data_uri(field: ImageField, limit: int) -> bytes:
    """The bytes of a data URI, read as leniently as browsers do: whitespace, URL-safe alphabet, missing padding."""
    header, comma, payload = field.url.partition(",")
    if not comma:
        raise FileDownloadError(field.loc, "The data URI has no comma before its data.")
    if len(payload) > limit * 3:  # nothing that is allowed is longer, not even percent-encoded
        raise too_large(field, limit)
    data = unquote_to_bytes(payload)
    if header.lower().endswith(";base64"):
        text = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        try:
            data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            raise FileDownloadError(field.loc, "The data URI is not valid base64.") from None
    if len(data) > limit:
        raise too_large(field, limit)
    return data


async def while_wanted(downloading: Coroutine[Any, Any, bytes], wanted: Callable[[], bool]) -> bytes:
    """What was downloaded. Raises Cancelled within LOOK_S when it is wanted no longer: its connection is closed."""
    task = asyncio.ensure_future(downloading)
    try:
        while not task.done():
            if not wanted():
                raise Cancelled("nobody needs the picture any more")
            await asyncio.wait([task], timeout=LOOK_S)
        return task.result()
    finally:
        task.cancel()


async def download(field: ImageField, outbound: Outbound, limit: int, timeout_s: float) -> bytes:
    """The body behind the field's URL, redirects followed, each hop checked, all within `timeout_s`."""
    if len(field.url) > LONGEST_URL:
        raise FileDownloadError(field.loc, f"The URL is longer than {LONGEST_URL} characters: send a data URI instead.")
    try:
        async with asyncio.timeout(timeout_s):
            return await _follow(field, outbound, limit)
    except TimeoutError:
        raise FileDownloadError(field.loc, f"The image was not downloaded within {timeout_s:g} s.") from None
    except Refused as refusal:
        raise FileDownloadError(field.loc, str(refusal)) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise FileDownloadError(field.loc, f"The download failed: {type(error).__name__}.") from None


async def _follow(field: ImageField, outbound: Outbound, limit: int) -> bytes:
    url = parse_url(field.url)
    # No gzip: images do not gain by it.
    headers = {"User-Agent": "veraicon", "Accept": "image/*", "Accept-Encoding": "identity"}
    async with outbound.client(headers=headers) as client:
        for _ in range(MAX_REDIRECTS + 1):
            async with client.stream("GET", **pinned(url, await outbound.resolve(url))) as response:
                if response.status_code not in REDIRECTS:
                    return await _body(field, response, limit)
                target = url.join(response.headers.get("location", ""))
            if url.scheme == "https" and target.scheme != "https":
                raise Refused("The URL redirects from https to something less safe.")
            url = target
    raise Refused(f"The URL redirects more than {MAX_REDIRECTS} times.")


async def _body(field: ImageField, response: httpx2.Response, limit: int) -> bytes:
    if response.status_code != 200:
        raise FileDownloadError(field.loc, f"The image's server answered {response.status_code}.")
    if int(response.headers.get("content-length") or 0) > limit:
        raise too_large(field, limit)
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > limit:
            raise too_large(field, limit)
    return bytes(body)


def too_large(field: ImageField, limit: int) -> FileTooLarge:
    return FileTooLarge(field.loc, f"The file is larger than {limit // MEGABYTE} MB.", {"max_size": limit})
