"""Makes a bundle: every file below the weights root, its lock, the manifest and licences; perhaps the application."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weights.archive import CHUNK, Index, Member, OnBytes, is_safe, total_bytes, write_archive
from weights.licences import render
from weights.lock import LOCK, Lock, read_lock
from weights.manifest import MANIFEST, read_manifest
from weights.parts import UNFINISHED, BundleError, writing

APPLICATION, WEIGHTS = "application", "weights"
RECORD = "installed.json"
"""What `install` notes below the weights root; it stays where it was made."""

OWN = {"LICENCES.md", "manifest.toml", RECORD}
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Source:
    """A file that goes into a bundle.

    Args:
        path: in the bundle. data: on disk, or the content itself. sha256: recorded earlier, or "".
    """

    path: str
    data: Path | bytes
    sha256: str = ""

    @property
    def size(self) -> int:
        return self.data.stat().st_size if isinstance(self.data, Path) else len(self.data)


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written. `sha256` is that of its index, on which everything in it hangs."""

    parts: tuple[Path, ...]
    sha256: str
    index: Index


def sources_of(root: Path, wheelhouse: Path | None = None, manifest: Path = MANIFEST) -> list[Source]:
    """Everything that goes into a bundle, the application first, so that it can be read without the weights.

    A file of which another one was prepared may be gone.

    Raises:
        BundleError: there are no weights, a locked file is missing, a name cannot travel, the wheelhouse is not whole.
        WeightsError: the lock cannot be understood.
    """
    application = wheels_of(wheelhouse) if wheelhouse else []
    files = weights_below(root)
    lock = read_lock(root)
    recorded = recorded_in(lock)
    used = {target for prepared in lock.prepared.values() for target in prepared.made_from}
    if lost := sorted(set(recorded) - used - {path.relative_to(root).as_posix() for path in files}):
        raise BundleError(
            f"{root / lost[0]} is missing, which {LOCK} names: `veraicon weights verify` lists every file"
        )
    if not files:
        raise BundleError(f"there are no weights in {root.absolute()}: `veraicon weights pull` downloads them")
    weights = [Source(f"{WEIGHTS}/{name}", file, recorded.get(name, "")) for name, file in named(files, root).items()]
    texts = [
        Source(f"{WEIGHTS}/LICENCES.md", render(read_manifest(manifest)).encode()),
        Source(f"{WEIGHTS}/manifest.toml", manifest.read_bytes()),
    ]
    return [*application, *texts, *weights]


def recorded_in(lock: Lock) -> dict[str, str]:
    """File below the weights root -> the sha256 that the lock has for it."""
    return {target: file.sha256 for target, file in (lock.files | dict(lock.prepared)).items()}


def weights_below(root: Path) -> list[Path]:
    """Every file below the root that is finished; links to files count as the files, as the loader takes them."""
    found = sorted(path for path in root.rglob("*") if path.is_file())
    return [
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not path.name.endswith(UNFINISHED)
        and path.relative_to(root).as_posix() not in OWN
    ]


def named(files: Sequence[Path], folder: Path) -> dict[str, Path]:
    """The files by their names below the folder. Raises BundleError for a name that cannot travel."""
    names = {file.relative_to(folder).as_posix(): file for file in files}
    for name, file in names.items():
        if not is_safe(name):
            raise BundleError(f"{file} has a name that not every disk can hold: give it plain letters, digits, - and _")
    return names


def wheels_of(folder: Path) -> list[Source]:
    """The files of a wheelhouse. Raises BundleError when it is not complete."""
    sums = folder / SUMS
    if not sums.is_file():
        raise BundleError(f"{folder} is no complete wheelhouse: {SUMS} is missing. Make it with `make wheelhouse`")
    lines = [line.split(maxsplit=1) for line in sums.read_text().splitlines()]
    recorded = {name: sha256 for sha256, name in lines}
    if lost := [name for name in recorded if not (folder / name).is_file()]:
        raise BundleError(f"{folder / lost[0]} is missing: make the wheelhouse again with `make wheelhouse`")
    return [Source(f"{APPLICATION}/{name}", folder / name, recorded.get(name, "")) for name in [*recorded, SUMS]]


def unknown_bytes(sources: Sequence[Source]) -> int:
    """How much must be read once more than to write it, because nobody has recorded its hash."""
    return sum(source.size for source in sources if not source.sha256)


def write_bundle(
    file: Path,
    sources: Sequence[Source],
    index: Index,
    split: int,
    on_bytes: OnBytes,
) -> Bundle:
    """Write FILE, or its parts; every file is compared with its recorded hash on the way.

    Args:
        split: bytes per part, 0 for one file.

    Raises:
        BundleError: a file is damaged, FILE exists, or the disk is too small; nothing is left behind.
    """
    encoded = index.encode()
    needed, free = total_bytes(index, len(encoded)), shutil.disk_usage(file.absolute().parent).free
    if free < needed:
        raise BundleError(f"{file} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: choose a larger disk")
    with writing(file, split) as stream:
        write_archive(stream, index, [source.data for source in sources], on_bytes)
        parts = stream.finish()
    return Bundle(tuple(parts), hashlib.sha256(encoded).hexdigest(), index)


def index_of(sources: Sequence[Source], application: str, profile: Literal["full", "tiny"], on_bytes: OnBytes) -> Index:
    """The index; reads the files whose hash is not recorded."""
    members = tuple(
        Member(source.path, source.size, source.sha256 or _sha256(source.data, on_bytes)) for source in sources
    )
    return Index(application, profile, members)


def _sha256(data: Path | bytes, on_bytes: OnBytes) -> str:
    if isinstance(data, bytes):
        on_bytes(len(data))
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    with data.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()
