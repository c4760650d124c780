"""Every byte below the weights root against what it must be."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from weights.bases import BASES
from weights.lock import Lock, LockedCheckpoint, read_lock
from weights.manifest import Checkpoint
from weights.places import place_of
from weights.prepared import PREPARE, recipes
from weights.store import AGAIN, broken, sha256_of

BACK = "put it back with `veraicon weights add-base`, or forget it with `veraicon weights remove-base`"


@dataclass(frozen=True)
class Proof:
    """A file to be read wholly.

    Args:
        size: its bytes. sha256: what it must have; "" where nobody knows. remedy: what to do if it has another.
    """

    target: str
    size: int
    sha256: str
    remedy: str


def proofs(checkpoints: Iterable[Checkpoint], root: Path, manifest: Mapping[str, Checkpoint]) -> list[Proof]:
    """The files of the checkpoints that are there, and what was prepared from them. Raises WeightsError."""
    lock, checkpoints = read_lock(root), list(checkpoints)
    found = [proof(file.target, file.sha256, root, lock) for one in checkpoints for file in one.files]
    made = [
        Proof(recipe.target, size_of(root / recipe.target), lock.prepared[recipe.target].sha256, f"{PREPARE} again")
        for recipe in recipes(manifest, [one.name for one in checkpoints])
        if recipe.target in lock.prepared
    ]
    taken = {one.target for one in made}
    return [*(one for one in found if one.target not in taken and (root / one.target).is_file()), *made]


def own_bases(root: Path) -> list[Proof]:
    """A studio's own bases, which no manifest names, as the lock knows them. Raises WeightsError."""
    ours = own_checkpoints(read_lock(root)).values()
    return [Proof(target, file.size, file.sha256, BACK) for one in ours for target, file in one.files.items()]


def own_checkpoints(lock: Lock) -> dict[str, LockedCheckpoint]:
    """What `veraicon weights add-base` has recorded, by ``bases/NAME``."""
    return {name: one for name, one in lock.checkpoints.items() if name.startswith(f"{BASES}/")}


def visible(root: Path, proof: Proof) -> str:
    """What is wrong with a file at a look at its size and its header, or ""."""
    path = root / proof.target
    if not path.is_file():
        return f"is missing: {proof.remedy}"
    if path.stat().st_size != proof.size:
        return f"is {path.stat().st_size} bytes, weights.lock says {proof.size}: {proof.remedy}"
    return broken(path)


def proof(target: str, certain: str, root: Path, lock: Lock) -> Proof:
    """What the file at a target must be, or the one that stands for it."""
    place = root / target if (root / target).is_file() else place_of(root / target)
    known = lock.files.get(target) if place == root / target else None
    return Proof(place.relative_to(root).as_posix(), size_of(place), certain or (known.sha256 if known else ""), AGAIN)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def disprove(root: Path, proof: Proof, report: Callable[[int], None]) -> str:
    """What is wrong with a file, all of which is read; "" when it is right, or nobody knows."""
    path = root / proof.target
    if not path.is_file():
        return f"is missing: {proof.remedy}"
    digest = sha256_of(path) if proof.sha256 else ""
    report(proof.size)
    if digest != proof.sha256:
        return f"has sha256 {digest}, expected {proof.sha256}: {proof.remedy}"
    return ""


def unknown(found: Iterable[Proof]) -> Iterator[str]:
    """Targets of files of which nobody knows what they must be."""
    return (one.target for one in found if not one.sha256)
