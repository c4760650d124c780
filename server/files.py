"""FileStore: pictures and uploads, in a local folder or on S3 (obstore). A file is written once and never changed."""

import contextlib
import hashlib
import mimetypes
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError

from server.objects import FileMissing, FilesUnreachable, Objects

FILE_ID = re.compile(r"[0-9a-f]{32}_[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CHUNK, FAR_CHUNK = 256 * 1024, 4 * 1024 * 1024
"""Bytes read at a time: from a disk, and from a network, where each read is a request."""
DEFAULT_TYPE = "application/octet-stream"
DRAFT_S = 3600.0
DeleteFiles = Callable[[Sequence[str]], None]
CHECKS = "checks"
"""Where `check` writes; what a crash leaves there is pruned by its age."""

_TYPES = mimetypes.MimeTypes()  # the packaged table only: the machine's own one must not change our answers
_TYPES.add_type("image/webp", ".webp")
_TYPES.add_type("image/avif", ".avif")


@dataclass(frozen=True)
class StoredFile:
    """A file's id, from which type and name follow, and its size in bytes."""

    id: str
    content_type: str
    file_name: str
    size: int


class FilesError(Exception):
    """The file store cannot be opened; the message says what to change."""


class FileStore:
    """The files of one server.

    An id is 128 random (or content-derived) bits, an underscore and the file's name, so that whoever has it may read
    the file and nobody finds it by chance; its ending carries the content type, which no store but S3 would remember.

    Every method raises FilesUnreachable (an OSError) when the store refuses or does not answer.

    Args:
        url: ``file:///folder`` or ``s3://bucket/prefix`` (endpoint and credentials from AWS_*, docs/operations.md).

    Raises:
        FilesError: the URL is neither.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        try:
            self._objects = Objects.in_folder(self._folder) if self._folder else Objects.at(url)
        except (BaseError, ValueError) as error:
            raise FilesError(f"files_url {url} cannot be used: it is file:///folder or s3://bucket/prefix") from error

    def check(self) -> None:
        """Write a small object and delete it, unless it would be in a folder. Raises FilesError saying what to do."""
        if not self._objects.far:
            return
        path = f"{CHECKS}/{secrets.token_hex(16)}"
        try:
            self._objects.put(path, b"veraicon", DEFAULT_TYPE)
            self._objects.delete([path])
        except (FilesUnreachable, FileMissing) as error:
            raise FilesError(
                f"the object store that files_url names cannot be written: {error}\n"
                "  -> check that the bucket exists, AWS_ENDPOINT_URL (with AWS_ALLOW_HTTP=true where it is http), "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION"
            ) from None

    def save(self, data: bytes, content_type: str, file_name: str | None = None) -> StoredFile:
        """Store `data`; on return it is on the disk."""
        return self.save_as(new_id(content_type, file_name), data)

    def save_as(self, file_id: str, data: bytes) -> StoredFile:
        """Store `data` under an id from `new_id`; on return it is on the disk. Raises FileMissing for what is no id."""
        if not FILE_ID.fullmatch(file_id):
            raise FileMissing(file_id)
        name = file_id.partition("_")[2]
        stored = StoredFile(file_id, _type_of(name), name, len(data))
        self._put(_path(stored.id), data, stored.content_type)
        return stored

    def _put(self, path: str, data: bytes, content_type: str = DEFAULT_TYPE) -> None:
        if self._folder:
            write_durably(self._folder / path, data)
        else:
            self._objects.put(path, data, content_type)

    def stat(self, file_id: str) -> StoredFile:
        """Raises FileMissing, also for what cannot be an id."""
        if not FILE_ID.fullmatch(file_id):
            raise FileMissing(file_id)
        name = file_id.partition("_")[2]
        return StoredFile(file_id, _type_of(name), name, self._objects.size(_path(file_id)))

    def read(self, file_id: str) -> bytes:
        """The whole file. Raises FileMissing."""
        return b"".join(self.stream(file_id))

    def stream(self, file_id: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """`length` bytes from `start`, or all from there, in chunks. Raises FileMissing before the first one."""
        size = self.stat(file_id).size
        end = size if length is None else min(size, start + length)
        chunk = FAR_CHUNK if self._objects.far else CHUNK
        return (self._objects.read(_path(file_id), at, min(at + chunk, end)) for at in range(start, end, chunk))

    def save_part(self, file_id: str, number: int, data: bytes) -> None:
        """Keep one part of a file to come; a part that is sent again replaces the one before."""
        if not FILE_ID.fullmatch(file_id):
            raise FileMissing(file_id)
        self._put(f"{_parts(file_id)}{number}", data)

    def parts(self, file_id: str) -> dict[int, int]:
        """Number -> size in bytes of the parts that are there."""
        named = ((path.rpartition("/")[2], size) for path, size in self._objects.sizes(_parts(file_id)))
        return {int(name): size for name, size in named if name.isdecimal()}  # the others are being written

    def join(self, file_id: str, numbers: Sequence[int]) -> StoredFile:
        """Store the file that these parts make, in this order. Raises FileMissing for a part that is not there."""
        return self.save_as(file_id, b"".join(self._objects.read(f"{_parts(file_id)}{number}") for number in numbers))

    def delete(self, file_ids: Sequence[str]) -> None:
        """Remove files, the parts of unfinished ones, and drafts; what is not there is gone already."""
        known = [file_id for file_id in file_ids if FILE_ID.fullmatch(file_id)]
        self._objects.delete([_path(file_id) for file_id in known])
        for file_id in known:
            self.delete_parts(file_id)
            for draft in (self._folder / _path(file_id)).parent.glob(f".{file_id}.*") if self._folder else ():
                draft.unlink(missing_ok=True)  # of a writer that died

    def listing(self) -> Iterator[tuple[str, int, bool]]:
        """Everything that is stored: a file's id, bytes, and whether that is the whole file, no part or draft of it."""
        for path, size in self._objects.sizes():
            folder, _, name = path.rpartition("/")
            if folder.startswith("parts/"):
                yield folder.partition("/")[2], size, False
            elif folder != CHECKS:
                draft = name.startswith(".")
                yield name[1:].rpartition(".")[0] if draft else name, size, not draft

    def delete_parts(self, file_id: str) -> None:
        """Remove what `join` no longer needs."""
        paths = [f"{_parts(file_id)}{number}" for number in self.parts(file_id)]
        self._objects.delete(paths)
        if self._folder:
            with contextlib.suppress(OSError):
                (self._folder / _parts(file_id)).rmdir()

    def prune(self, older_than_s: float, remove: Callable[[Sequence[str], DeleteFiles], None]) -> int:
        """Delete files (also unfinished ones) written more than `older_than_s` ago. Returns how many.

        Drafts go sooner: whoever has not finished one within an hour was killed.

        Args:
            remove: gets whole files, and what deletes those of them that are still so old; it calls that while nobody
                begins to write them again (server.queue.removal.remove_old).
        """
        old = self._objects.older_than(older_than_s)
        whole = {path: name for path in old if FILE_ID.fullmatch(name := path.rpartition("/")[2])}
        remove(list(whole.values()), partial(self._delete_old, older_than_s))
        self._objects.delete([path for path in old if path not in whole])
        return len(old) + self._prune_drafts(min(older_than_s, DRAFT_S))

    def _delete_old(self, older_than_s: float, file_ids: Sequence[str]) -> None:
        paths = [_path(file_id) for file_id in file_ids]
        self._objects.delete([path for path in paths if self._objects.is_older(path, older_than_s)])

    def _prune_drafts(self, older_than_s: float) -> int:
        pruned, before = 0, time.time() - older_than_s
        for draft in self._folder.glob("*/.*") if self._folder else ():
            with contextlib.suppress(FileNotFoundError):  # finished just now
                if draft.stat().st_mtime < before:
                    draft.unlink()
                    pruned += 1
        return pruned


def new_id(content_type: str, file_name: str | None = None) -> str:
    """The id of a file that will be uploaded later: clients get its URL before they send its bytes."""
    token = secrets.token_hex(16)
    return f"{token}_{_name(token, content_type, file_name)}"


def content_id(data: bytes, content_type: str) -> str:
    """The id that these very bytes always get, so that saving them twice keeps one file."""
    token = hashlib.sha256(data).hexdigest()[:32]
    return f"{token}_{_name(token, content_type, None)}"


def file_id_in(url: str) -> str | None:
    """The id in ``file:<id>`` or ``…/files/<id>``; None for any other URL."""
    scheme, _, rest = url.partition(":")
    try:
        name = rest if scheme == "file" else urlsplit(url).path.partition("/files/")[2]
    except ValueError:  # no URL at all, such as ``http://[``
        return None
    return name if FILE_ID.fullmatch(name) else None


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file that survives a power failure: no reader ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _path(file_id: str) -> str:
    return f"{file_id[:2]}/{file_id}"  # 256 folders, so that none grows too large


def _parts(file_id: str) -> str:
    """The folder of a file's parts: no URL leads there."""
    return f"parts/{file_id}/"


def _type_of(name: str) -> str:
    return _TYPES.guess_type(name)[0] or DEFAULT_TYPE


def _name(token: str, content_type: str, wanted: str | None) -> str:
    """A harmless file name whose ending says the content type."""
    content_type = content_type.partition(";")[0].strip().lower()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(wanted or token).name).strip("-._")[-100:].lstrip("-._") or token
    if _type_of(name) == content_type:
        return name
    return name + (_TYPES.guess_extension(content_type) or ".bin")
