"""Which files `veraicon weights prepare` makes of which, and whether those that lie there are still made of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from weights.lock import Lock, Locked, read_lock
from weights.manifest import Checkpoint, File
from weights.places import shards_of, source_of

LARGE = (".safetensors", ".onnx")
PREPARE = "`veraicon weights prepare` makes it"


@dataclass(frozen=True)
class Recipe:
    """A file that the server reads, and what it is made of.

    Args:
        target: below the root. sources: the manifest's files, with their checkpoints.
    """

    target: str
    sources: tuple[tuple[Checkpoint, File], ...]

    def source_files(self, root: Path) -> list[tuple[Checkpoint, str]]:
        """The files that it is made of, as they lie there (a base may be one file, or shards), by target."""
        files = [(one, path) for one, file in self.sources for path in source_places(root, file)]
        return [(one, path.relative_to(root).as_posix()) for one, path in files]


def recipes(manifest: Mapping[str, Checkpoint], names: Iterable[str]) -> list[Recipe]:
    """What has to be prepared of the named checkpoints; not where a source belongs to another one."""
    sources: dict[str, list[tuple[Checkpoint, File]]] = {}
    for checkpoint in manifest.values():
        for file in checkpoint.files:
            if file.prepared:
                sources.setdefault(file.prepared, []).append((checkpoint, file))
    wanted = set(names)
    return [
        Recipe(target, tuple(of))
        for target, of in sources.items()
        if wanted.issuperset(checkpoint.name for checkpoint, _ in of)
    ]


def served(names: Iterable[str], root: Path, manifest: Mapping[str, Checkpoint]) -> list[Path]:
    """The large files of the named checkpoints that a server reads at its start: prepared ones for their sources."""
    places = list[Path]()
    for name in names:
        for file in manifest[name].files:
            places += [root / file.prepared] if file.prepared else source_places(root, file)
    return [place for place in dict.fromkeys(places) if place.suffix in LARGE]


def source_places(root: Path, file: File) -> list[Path]:
    """The files to prepare from: a pickle itself while it is there; an index with its shards."""
    place = source_of(root / file.target)
    return [place, *(place.parent / name for name in shards_of(place))] if ".index." in place.name else [place]


def unprepared(
    names: Iterable[str], root: Path, dtype: str, manifest: Mapping[str, Checkpoint]
) -> list[tuple[str, str]]:
    """(target, problem) of each prepared file that the named checkpoints need and that cannot be used.

    Raises:
        WeightsError: the lock cannot be read.
    """
    lock = read_lock(root)
    found = [(recipe.target, problem_of(recipe, root, lock, dtype)) for recipe in recipes(manifest, names)]
    return [(target, problem) for target, problem in found if problem]


def problem_of(recipe: Recipe, root: Path, lock: Lock, dtype: str) -> str:
    """Why the server cannot use a prepared file, or ""."""
    path, entry, sources = root / recipe.target, lock.prepared.get(recipe.target), recipe.source_files(root)
    if path.is_file() and all(target == recipe.target for _, target in sources):
        return ""  # a conversion of somebody's own, whose pickle is not there
    if entry is None or not path.is_file():
        return f"is not prepared yet: {PREPARE}"
    if path.stat().st_size != entry.size:
        return f"is {path.stat().st_size} bytes, weights.lock says {entry.size}: {PREPARE} again"
    if entry.dtype != dtype:
        return f"was prepared as {entry.dtype}, and this server runs on {dtype}: {PREPARE} again"
    for _, target in sources:
        if target != recipe.target and changed(root / target, lock.files.get(target), entry.made_from.get(target)):
            return f"was made of another {target}: {PREPARE} again"
    return ""


def changed(path: Path, known: Locked | None, used: str | None) -> bool:
    """By the lock and the size; what has the old size and other bytes is found by `verify --deep`."""
    return known is None or known.sha256 != used or path.stat().st_size != known.size


def stored_dtype(dtype: str) -> str:
    """The precision in which files are prepared for a server that runs in `dtype`: bfloat16 is rounded at load."""
    return "float32" if dtype == "float32" else "float16"
