"""A bundle's format: a plain tar whose first member is the index, with the size and sha256 of every other one.

    index.json   index.json.sha256   application/…   weights/…

Whatever else a tar can hold (links, devices, folders, sparse files, extended headers) is refused, and so is a member
that the index does not name at this place: the index is compared by its own hash, over another channel, and everything
hangs on it. Reading and writing stream; memory does not grow with the files.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from weights.parts import BundleError, PartsReader, check_size

FORMAT = 1
INDEX = "index.json"
INDEX_SUM = "index.json.sha256"
BLOCK = 512
CHUNK = 1 << 20
MOST_INDEX_BYTES = 16_000_000
MOST_NAME_BYTES = 1024
END = bytes(2 * BLOCK)

OnBytes = Callable[[int], None]
"""Told how many bytes were done since the last call."""


class Writer(Protocol):
    def write(self, data: bytes) -> None: ...


@dataclass(frozen=True)
class Member:
    """A file in a bundle. `path` has forward slashes; `size` is in bytes; `sha256` is hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What a bundle holds, in the order in which it comes.

    Args:
        application: version of Veraicon that made it.
        profile: ``"full"``, or ``"tiny"``: weights for a rehearsal, whose pictures are noise by nature.
    """

    application: str
    profile: Literal["full", "tiny"]
    members: tuple[Member, ...]
    format: int = FORMAT

    def encode(self) -> bytes:
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    @property
    def size(self) -> int:
        """Bytes of all members together, without the index."""
        return sum(member.size for member in self.members)


def total_bytes(index: Index, index_bytes: int) -> int:
    """The exact length of the bundle whose index takes `index_bytes`."""
    sizes = [
        (INDEX, index_bytes),
        (INDEX_SUM, len(_sum(""))),
        *((member.path, member.size) for member in index.members),
    ]
    return sum(len(_header(path, size)) + _padded(size) for path, size in sizes) + len(END)


def write_archive(stream: Writer, index: Index, sources: Sequence[Path | bytes], on_bytes: OnBytes) -> None:
    """Write the index and, in its order, the files.

    Raises:
        BundleError: a file is not what the index says; it names the file and both hashes.
    """
    encoded = index.encode()
    for path, content in ((INDEX, encoded), (INDEX_SUM, _sum(hashlib.sha256(encoded).hexdigest()))):
        stream.write(_header(path, len(content)) + content + _padding(len(content)))
    for member, source in zip(index.members, sources, strict=True):
        stream.write(_header(member.path, member.size))
        digest, size = hashlib.sha256(), 0
        for chunk in _chunks(source):
            stream.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            on_bytes(len(chunk))
        if (digest.hexdigest(), size) != (member.sha256, member.size):
            raise BundleError(
                f"{source if isinstance(source, Path) else member.path} has sha256 {digest.hexdigest()}, "
                f"recorded is {member.sha256}: `veraicon weights verify --deep` checks every file"
            )
        stream.write(_padding(size))
    stream.write(END)


@contextmanager
def opened(file: Path) -> Iterator["Archive"]:
    """A bundle whose index was read and checked, and whose parts have the right sizes. Raises BundleError."""
    reader = PartsReader(file)
    try:
        yield Archive(file, reader)
    finally:
        reader.close()


class Archive:
    """A bundle that is read from start to end, once."""

    def __init__(self, file: Path, reader: PartsReader) -> None:
        self.file, self._reader = file, reader
        encoded = self._read_index()
        self.sha256 = hashlib.sha256(encoded).hexdigest()
        self._check_index()
        self.index = _parsed(encoded, file)
        check_size(reader.parts, total_bytes(self.index, len(encoded)))

    def require(self, sha256: str) -> None:
        """Raises BundleError when the index has another hash than `sha256`; "" leaves the comparison to a person."""
        if sha256 not in {"", self.sha256}:
            raise BundleError(f"{self.file} is another bundle than {sha256}: do not install it")

    def members(self, on_bytes: OnBytes) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Each member with its content, which must be read before the next one is asked for.

        Raises:
            BundleError: the bundle differs from its index; a content that differs raises at its end.
        """
        for member in self.index.members:
            self._expect(member.path, member.size)
            yield member, self._content(member, on_bytes)
        if self._reader.read(len(END) + 1) != END:
            raise BundleError(f"{self.file} holds more than its index names: it is not what was made; copy it again")

    def _read_index(self) -> bytes:
        path, size = self._next_header()
        if path != INDEX or not 0 < size <= MOST_INDEX_BYTES:
            raise BundleError(f"{self.file} is no bundle of Veraicon: it does not begin with {INDEX}")
        encoded = self._reader.read(_padded(size))
        if len(encoded) < _padded(size) or encoded[size:] != _padding(size):
            raise BundleError(f"{self.file} was cut short in its index, or is damaged there: copy it again")
        return encoded[:size]

    def _check_index(self) -> None:
        """Raises BundleError when the index is not the one that was written."""
        expected = _sum(self.sha256)
        self._expect(INDEX_SUM, len(expected))
        if self._reader.read(_padded(len(expected))) != expected + _padding(len(expected)):
            raise BundleError(f"the index of {self.file} is damaged: copy the bundle again")

    def _expect(self, path: str, size: int) -> None:
        found = self._next_header()
        if found != (path, size):
            raise BundleError(
                f"{self.file} holds {found[0]!r} of {found[1]} bytes where its index has {path} of {size} bytes: "
                "it is not what was made; copy it again"
            )

    def _content(self, member: Member, on_bytes: OnBytes) -> Iterator[bytes]:
        digest, left = hashlib.sha256(), member.size
        while left:
            chunk = self._reader.read(min(CHUNK, left))
            if not chunk:
                raise BundleError(f"{self.file} ends within {member.path}: copy it again")
            digest.update(chunk)
            left -= len(chunk)
            on_bytes(len(chunk))
            yield chunk
        padding = self._reader.read(len(_padding(member.size)))
        if digest.hexdigest() != member.sha256 or padding != _padding(member.size):
            raise BundleError(
                f"{member.path} in {self.file} is damaged: its sha256 is {digest.hexdigest()}, the index says "
                f"{member.sha256}; copy the bundle again"
            )

    def _next_header(self) -> tuple[str, int]:
        """Name and size of the next member. Raises BundleError for anything but a plain file, as we write it."""
        raw = self._reader.read(BLOCK)
        info = self._parsed(raw)
        name = info.name
        if info.type == tarfile.GNUTYPE_LONGNAME and info.size <= MOST_NAME_BYTES:
            content = self._reader.read(_padded(info.size))
            name = content.rstrip(b"\0").decode(errors="replace")
            last = self._reader.read(BLOCK)
            raw, info = raw + content + last, self._parsed(last)
        if info.type != tarfile.REGTYPE:
            kind = KINDS.get(info.type, f"entry of type {info.type!r}")
            raise BundleError(f"{self.file} holds {name!r} as a {kind}; only plain files are allowed: copy it again")
        if raw != _header(name, info.size):
            raise BundleError(f"{self.file} is damaged before {name!r}, or another program wrote it: copy it again")
        return name, info.size

    def _parsed(self, header: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(header, "utf-8", "replace")
        except tarfile.HeaderError as error:
            raise BundleError(f"{self.file} is no bundle of Veraicon, or damaged ({error}): copy it again") from error


KINDS = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.DIRTYPE: "folder",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
}


def _parsed(encoded: bytes, file: Path) -> Index:
    """Raises BundleError for an index of another format, or with paths that lead elsewhere."""
    try:
        table = json.loads(encoded)
        if table["format"] != FORMAT:
            raise BundleError(
                f"{file} has format {table['format']!r}, this Veraicon reads format {FORMAT}: "
                f"it was made by {table.get('application')!r}; install that version first"
            )
        members = tuple(Member(str(one["path"]), int(one["size"]), str(one["sha256"])) for one in table["members"])
        index = Index(str(table["application"]), "tiny" if table["profile"] == "tiny" else "full", members)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"the index of {file} cannot be read ({error!r}): copy the bundle again") from error
    for member in members:
        if not is_safe(member.path) or member.size < 0:
            raise BundleError(f"{file} names a file {member.path!r}, which leads elsewhere: do not install this bundle")
    if len({member.path.casefold() for member in members}) != len(members):
        raise BundleError(f"{file} names a file twice: do not install this bundle")
    return index


def is_safe(path: str) -> bool:
    """Whether a relative path stays below its folder, on every file system: no dots in front, no strange characters."""
    parts = path.split("/")
    plain = path.isprintable() and "\\" not in path and ":" not in path and str(PurePosixPath(path)) == path
    return plain and len(path.encode()) < MOST_NAME_BYTES and all(part and not part.startswith(".") for part in parts)


def _header(path: str, size: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size = max(size, 0)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "replace")


def _sum(sha256: str) -> bytes:
    """What sha256sum writes."""
    return f"{sha256:>64}  {INDEX}\n".encode()


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _padding(size: int) -> bytes:
    return bytes(_padded(size) - size)


def _chunks(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
