"""Weights that somebody brought along in a folder, in whichever of the usual layouts: found there, and proven."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urldefrag

from weights.hub import Remote
from weights.lock import Lock, Locked, read_lock
from weights.manifest import Checkpoint, File, WeightsError
from weights.plan import Ask, Order, Plan, adopt, in_place


def draw_up_from(
    folder: Path, root: Path, checkpoints: Iterable[Checkpoint], manifest: Mapping[str, Checkpoint], ask: Ask = Ask()
) -> Plan:
    """What `root` lacks and `folder` has; nothing else is asked.

    Raises:
        WeightsError: naming every file that is not there.
    """
    lock, other = read_lock(root), read_lock(folder)
    names = Counter(file.path for one in manifest.values() for file in one.files)
    orders, lacking = [], []
    for one in checkpoints:
        for file in one.files:
            if file.target not in ask.again and in_place(root, file, lock.files.get(file.target)):
                continue
            found = find(folder, one, file, unique=names[file.path] == 1)
            entry = None if file.target in ask.again else kept(root, one, file, found, lock)
            if found:
                orders.append((order_of(one, file, found, other), entry))
            elif entry:
                orders.append((Order(one, file, "", Remote(), "local", ()), entry))
            else:
                lacking.append(f"{file.target} (there {one.repository}/{file.path}, or {file.target})")
    if lacking:
        raise WeightsError(f"{folder} lacks {', '.join(lacking[:5])}{more(lacking)}: bring them too, and try again")
    return Plan(
        tuple(order for order, entry in orders if entry is None),
        tuple((order, entry) for order, entry in orders if entry),
    )


def more(lacking: list[str]) -> str:
    return f", and {len(lacking) - 5} more" if len(lacking) > 5 else ""


def kept(root: Path, checkpoint: Checkpoint, file: File, found: str, lock: Lock) -> Locked | None:
    """The entry of a file that lies in the root already."""
    remote = Remote(file.size, file.sha256)
    return adopt(root, Order(checkpoint, file, "", remote, "manifest", (found,)), lock.files.get(file.target))


def order_of(checkpoint: Checkpoint, file: File, found: str, other: Lock) -> Order:
    """A file in the folder, known by the manifest, else by the folder's own lock, else by nobody."""
    told = other.files.get(file.target)
    if file.sha256 or told is None:
        known = "manifest" if file.sha256 else "local"
        return Order(checkpoint, file, "", Remote(file.size, file.sha256), known, (found,))
    commit = other.checkpoints[checkpoint.name].commit if checkpoint.name in other.checkpoints else ""
    return Order(checkpoint, file, commit, Remote(told.size, told.sha256), told.known, (found,))


def find(folder: Path, checkpoint: Checkpoint, file: File, *, unique: bool) -> str:
    """The address of a file in the folder, or "".

    Layouts: a weights folder's own; the repository under its name, with or without its owner; the hub's cache; a file
    whose path only one checkpoint has, by itself; face models one folder too deep or in their zip, as released.
    """
    path, repository = file.path, PurePosixPath(checkpoint.repository)
    cached = folder.glob(f"models--{checkpoint.repository.replace('/', '--')}/snapshots/*/{path}")
    alone = [folder / path, folder / checkpoint.name / path, folder / checkpoint.name / checkpoint.name / path]
    places = [folder / file.target, folder / repository / path, folder / repository.name / path, *sorted(cached)]
    for place in [*places, *(alone if unique else ())]:
        if place.is_file():
            return place.resolve().as_uri()
    for mirror in file.mirrors:
        address, member = urldefrag(mirror)
        archive = folder / PurePosixPath(address).name
        if member and archive.is_file():
            return f"{archive.resolve().as_uri()}#{member}"
    return ""
