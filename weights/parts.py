"""A long file in one piece or in parts: FILE, or FILE.001, FILE.002 … where a disk cannot hold large files (FAT)."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from weights.manifest import WeightsError

UNFINISHED = ".unfinished"
MOST_PARTS = 999


class BundleError(WeightsError):
    """A bundle cannot be made or is not what was made; the message names the file, why, and what to do."""


class PartsWriter:
    """A stream into FILE, or into FILE.001 … of `split` bytes each; the names appear when all is written.

    Args:
        split: bytes per part; 0 for one file.
    """

    def __init__(self, file: Path, split: int = 0) -> None:
        self._file, self._split = file, split
        self._paths: list[Path] = []
        self._open: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        """Raises OSError, and BundleError where the disk holds no file so large."""
        view = memoryview(data)
        while view:
            part = self._part()
            room = self._split - part.tell() if self._split else len(view)
            part.write(view[:room])
            view = view[room:]

    def finish(self) -> list[Path]:
        """Everything on disk, under its names."""
        self._close()
        named = [path.with_name(path.name.removesuffix(UNFINISHED)) for path in self._paths]
        for path, name in zip(self._paths, named, strict=True):
            path.chmod(0o644)  # another person may carry the disk; weights are no secret
            path.replace(name)
        return named

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._open:
            self._open.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _part(self) -> BinaryIO:
        """The part that has room."""
        if self._open and not (self._split and self._open.tell() >= self._split):
            return self._open
        self._close()
        number = len(self._paths) + 1
        if number > MOST_PARTS:
            raise BundleError(f"{self._file} would have more than {MOST_PARTS} parts: choose a larger --split")
        name = f"{self._file.name}.{number:03}" if self._split else self._file.name
        self._paths.append(self._file.with_name(name + UNFINISHED))
        self._open = self._paths[-1].open("wb")
        return self._open

    def _close(self) -> None:
        if self._open:
            with self._open as part:
                part.flush()
                os.fsync(part.fileno())
            self._open = None


@contextmanager
def writing(file: Path, split: int = 0) -> Iterator[PartsWriter]:
    """A writer that leaves whole files or none.

    Raises:
        BundleError: there is such a file already, or the disk holds no file so large.
    """
    for there in (file, file.with_name(f"{file.name}.001")):
        if there.exists():
            raise BundleError(f"{there} exists already: delete it, or choose another name")
    writer = PartsWriter(file, split)
    try:
        yield writer
    except OSError as error:
        writer.abort()
        if error.errno == errno.EFBIG:
            raise BundleError(f"the disk of {file} holds no file so large (FAT): add `--split 4G`") from error
        raise
    except BaseException:
        writer.abort()
        raise


class PartsReader:
    """The parts of a bundle as one stream, read once from its start."""

    def __init__(self, file: Path) -> None:
        self.parts = find_parts(file)
        self._left = list(self.parts)
        self._open: BinaryIO | None = None

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the last part."""
        data = bytearray()
        while len(data) < size and self._forward():
            data += self._open.read(size - len(data)) if self._open else b""
            self._drop_if_read()
        return bytes(data)

    def close(self) -> None:
        if self._open:
            self._open.close()

    def _forward(self) -> bool:
        if self._open is None and self._left:
            self._open = self._left.pop(0).open("rb")
        return self._open is not None

    def _drop_if_read(self) -> None:
        if self._open and self._open.tell() >= os.fstat(self._open.fileno()).st_size:
            self._open.close()
            self._open = None


def find_parts(file: Path) -> list[Path]:
    """FILE itself, or FILE.001 and on. Raises BundleError naming the first part that is missing."""
    if file.is_file():
        return [file]
    numbers = sorted(int(part.name[-3:]) for part in file.parent.glob(f"{file.name}.[0-9][0-9][0-9]"))
    for wanted, found in enumerate(numbers, start=1):
        if wanted != found:
            raise BundleError(f"{file}.{wanted:03} is missing: copy every part of the bundle into one folder")
    if not numbers:
        raise BundleError(
            f"there is no bundle {file} (nor {file.name}.001): check the path; parts are named without .001"
        )
    return [file.with_name(f"{file.name}.{number:03}") for number in numbers]


def check_size(parts: list[Path], total: int) -> None:
    """Whether the parts have `total` bytes together. Raises BundleError naming the part that lacks or has too many."""
    first = parts[0].stat().st_size
    for index, part in enumerate(parts):
        expected = min(first, total - index * first) if len(parts) > 1 else total
        if (size := part.stat().st_size) != expected:
            raise BundleError(f"{part} is {size} bytes, expected {max(0, expected)}: copy it again")
    if len(parts) > 1 and first * len(parts) < total:
        missing = parts[0].with_name(f"{parts[0].name[:-4]}.{len(parts) + 1:03}")
        raise BundleError(f"{missing} is missing: copy every part of the bundle into one folder")
