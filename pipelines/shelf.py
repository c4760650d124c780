"""Shelf: what several pipelines of one process make of the same files exists once in memory. Torch-free."""

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipelines.errors import LoadError

Thing = TypeVar("Thing")

CHUNK = 16 * 1024 * 1024
"""Bytes compared at a time."""


@dataclass(frozen=True)
class Stamp:
    """A file as it was at one moment: every later change of its content gives it another stamp.

    Args:
        place: device and inode. changed_ns: the kernel's own time of the last change, which no program can set back.
    """

    place: tuple[int, int]
    size: int
    changed_ns: int


@dataclass(frozen=True)
class Kept:
    """A thing in use, its key, and the files that it was made of."""

    key: Hashable
    files: tuple[tuple[Path, Stamp], ...]
    thing: "weakref.ref[Any]"


class Shelf:
    """Made by whoever loads several pipelines, and handed to each. For one thread at a time."""

    def __init__(self) -> None:
        self._kept: list[Kept] = []

    def get(self, key: Hashable, files: Sequence[Path], make: Callable[[], Thing]) -> Thing:
        """What `make` makes of `files`, or what was made before under an equal key of files with the same bytes.

        A thing is kept for as long as somebody uses it. Files of different sizes are never read, and of equal sizes
        every byte is compared: that costs no more than to load them, which then is not done.

        Raises:
            LoadError: one of the files is missing.
        """
        stamped = tuple((file, stamp(file)) for file in files)
        self._kept = [kept for kept in self._kept if kept.thing() is not None]
        for kept in self._kept:
            thing = kept.thing()
            if thing is not None and kept.key == key and same_files(kept.files, stamped):
                return thing
        thing = make()
        self._kept.append(Kept(key, stamped, weakref.ref(thing)))
        return thing


def stamp(file: Path) -> Stamp:
    """The file's stamp now. Raises LoadError when it is missing."""
    try:
        found = file.stat()
    except OSError as error:
        raise LoadError(f"{file} is missing. `veraicon weights pull` gets it") from error
    return Stamp((found.st_dev, found.st_ino), found.st_size, found.st_ctime_ns)


def same_files(ours: Sequence[tuple[Path, Stamp]], theirs: Sequence[tuple[Path, Stamp]]) -> bool:
    """Whether the files hold the same bytes, one by one; sizes first, because they cost nothing."""
    if [mark.size for _, mark in ours] != [mark.size for _, mark in theirs]:
        return False
    return all(same_file(one, other) for one, other in zip(ours, theirs, strict=True))


def same_file(read: tuple[Path, Stamp], other: tuple[Path, Stamp]) -> bool:
    """Whether `other` holds what `read` held at its stamp; a file that has changed since then cannot tell."""
    if read[1] == other[1]:
        return True
    return same_bytes(read[0], other[0]) and all(stamp(file) == mark for file, mark in (read, other))


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two files of one size have the same content."""
    with one.open("rb") as ours, other.open("rb") as theirs:
        while chunk := ours.read(CHUNK):
            if theirs.read(CHUNK) != chunk:
                return False
    return True
