"""Read-ahead: the checkpoints come from the disk while models are built, each file by a thread of its own."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.endpoint import Endpoint
from server.settings import Settings
from weights.manifest import read_manifest
from weights.prepared import served

CHUNK = 4 * 1024 * 1024
"""Bytes read at a time: the end of the context stops a thread after one such piece."""


def files_of(catalog: Iterable[Endpoint], settings: Settings, root: Path) -> list[Path]:
    """The checkpoints' files that these endpoints need, below `root`."""
    manifest = read_manifest(settings.weights_manifest)
    names = dict.fromkeys(name for endpoint in catalog for name in endpoint.checkpoints if name in manifest)
    return served(names, root, manifest)


@contextlib.contextmanager
def reading_ahead(files: Iterable[Path]) -> Iterator[None]:
    """Inside, the files are read into the kernel's cache, where the loader finds them; links to one file once.

    Only a help: a file that cannot be read is left to whoever needs it, who says what is wrong.
    """
    over = threading.Event()
    for file in once(files):
        threading.Thread(target=read_through, args=(file, over), name=f"read {file.name}", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def once(files: Iterable[Path]) -> list[Path]:
    """The files that are there, each by one of its names."""
    found: dict[tuple[int, int], Path] = {}
    for file in files:
        with contextlib.suppress(OSError):
            stat = file.stat()
            found.setdefault((stat.st_dev, stat.st_ino), file)
    return list(found.values())


def read_through(file: Path, over: threading.Event) -> None:
    """Read and forget. Read, because advice to the kernel (WILLNEED) is cut to a few megabytes a call."""
    piece = bytearray(CHUNK)
    with contextlib.suppress(OSError), file.open("rb", buffering=0) as stream:
        while not over.is_set() and stream.readinto(piece):
            continue
