"""What a pull has to fetch: which files are not there, from where, how large, and known by whose word."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from weights.download import Line, git_blob, look
from weights.hub import Remote, Repository, read_repository
from weights.lock import Known, Lock, Locked
from weights.manifest import Checkpoint, File, WeightsError
from weights.store import broken, sha256_of

LICENCE_TEXT = re.compile(r"(licen[cs]e|notice|copying)([-_.][\w.-]*)?", re.IGNORECASE | re.ASCII)
"""Names of files at the top of a repository that are its licence."""

NEWER_BYTES = "If you trust the new bytes, `veraicon weights pull --update` takes them"
OTHER_SOURCE = (
    "Bring the right file (`veraicon weights pull --from FOLDER`), or name a mirror in a manifest of your own"
)


@dataclass(frozen=True)
class Ask:
    """How a pull differs from the usual one, which fetches what is missing.

    Args:
        again: targets to fetch though something lies there. update: look for newer commits than those in the lock.
    """

    again: tuple[str, ...] = ()
    update: bool = False


@dataclass(frozen=True)
class Order:
    """One file to fetch.

    Args:
        commit: of the repository, or the release's tag. known: who promises `remote`.
    """

    checkpoint: Checkpoint
    file: File
    commit: str
    remote: Remote
    known: Known
    urls: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes, by the manifest's estimate where the source does not say."""
        return self.remote.size or self.file.megabytes * 1_000_000


@dataclass(frozen=True)
class Plan:
    """What is to be fetched, and what is in its place already."""

    orders: tuple[Order, ...] = ()
    kept: tuple[tuple[Order, Locked], ...] = ()
    """Files that lay there without an entry in the lock, with the one that they get."""


def draw_up(root: Path, checkpoints: Iterable[Checkpoint], lock: Lock, line: Line, ask: Ask = Ask()) -> Plan:
    """Compare the root with the sources of what it lacks; a checkpoint that lacks nothing is not asked for.

    Raises:
        WeightsError: a source cannot be had, or has no longer the bytes that the lock pins.
    """
    wanted = [
        (one, file)
        for one in checkpoints
        for file in one.files
        if ask.update or file.target in ask.again or not in_place(root, file, lock.files.get(file.target))
    ]
    pins = Lock() if ask.update else lock
    sources: dict[tuple[str, str], Repository] = {}
    orders = [order_for(one, file, pins, line, sources) for one, file in wanted]
    texts = licence_texts(dict.fromkeys(one for one, _ in wanted), pins, line, sources)
    orders += [one for one in texts if ask.update or not in_place(root, one.file, lock.files.get(one.file.target))]
    entries = [
        None if order.file.target in ask.again else adopt(root, order, lock.files.get(order.file.target))
        for order in orders
    ]
    return Plan(
        tuple(order for order, entry in zip(orders, entries, strict=True) if entry is None),
        tuple((order, entry) for order, entry in zip(orders, entries, strict=True) if entry),
    )


def licence_texts(
    checkpoints: Iterable[Checkpoint], lock: Lock, line: Line, sources: Mapping[tuple[str, str], Repository]
) -> Iterator[Order]:
    """The licences in repositories that were read: kept beside the files, as most of them want, and bundled."""
    read = {name: found for (name, _), found in sources.items()}
    for one in checkpoints:
        found = read.get(one.repository, Repository("", {}))
        for path in filter(LICENCE_TEXT.fullmatch, found.files):
            file = File(path, f"licences/{one.name}/{path}")
            remote = promised(found.files[path], file, lock.files.get(file.target))
            yield Order(one, file, found.commit, remote, "hub", (one.url(file, line.hub, found.commit),))


def in_place(root: Path, file: File, locked: Locked | None) -> bool:
    """Whether the file is there as the lock knows it, by its size: hashes are for `verify --deep`."""
    path = root / file.target
    return locked is not None and path.is_file() and path.stat().st_size == locked.size


def order_for(
    checkpoint: Checkpoint, file: File, lock: Lock, line: Line, sources: dict[tuple[str, str], Repository]
) -> Order:
    """Where a file's bytes come from, and what they must be. `sources`: repositories that were read before."""
    try:
        own = hub_order if checkpoint.source == "hub" else plain_order
        return own(checkpoint, file, lock, line, sources)
    except WeightsError:
        if not (file.sha256 and file.mirrors):
            raise
    return Order(checkpoint, file, "", Remote(file.size, file.sha256), "manifest", file.mirrors)


def plain_order(
    checkpoint: Checkpoint, file: File, lock: Lock, line: Line, _: dict[tuple[str, str], Repository]
) -> Order:
    """A file of a release, or at an address."""
    urls = (checkpoint.url(file), *file.mirrors)
    remote = Remote() if file.sha256 else look_anywhere(line, urls)
    known = "manifest" if file.sha256 else "local" if urls[0].startswith("file:") else "release"
    return Order(
        checkpoint, file, checkpoint.revision, promised(remote, file, lock.files.get(file.target)), known, urls
    )


def hub_order(
    checkpoint: Checkpoint, file: File, lock: Lock, line: Line, sources: dict[tuple[str, str], Repository]
) -> Order:
    """A file of a repository on the hub, at the commit that the lock pins."""
    old = lock.checkpoints.get(checkpoint.name)
    revision = checkpoint.revision or (old.commit if old and old.repository == checkpoint.repository else "")
    key = checkpoint.repository, revision
    if key not in sources:
        sources[key] = read_repository(checkpoint.repository, revision, line.hub)
    found = sources[key]
    if file.path not in found.files:
        raise WeightsError(
            f"{line.hub}/{checkpoint.repository} has no {file.path} at {found.commit}: choose another revision in a "
            f"manifest of your own, or bring the file (`veraicon weights pull {checkpoint.name} --from FOLDER`)"
        )
    return Order(
        checkpoint,
        file,
        found.commit,
        promised(found.files[file.path], file, lock.files.get(file.target)),
        "manifest" if file.sha256 else "hub",
        (checkpoint.url(file, line.hub, found.commit), *file.mirrors),
    )


def promised(remote: Remote, file: File, pinned: Locked | None) -> Remote:
    """What the bytes must be: by the manifest, else as pinned, else by the source.

    Raises:
        WeightsError: they contradict each other.
    """
    certain = file.sha256 or (pinned.sha256 if pinned and pinned.known != "local" else "")
    if certain and remote.sha256 and remote.sha256 != certain:
        who, remedy = ("the manifest", OTHER_SOURCE) if file.sha256 else ("weights.lock", NEWER_BYTES)
        raise WeightsError(
            f"{file.target}: its source has sha256 {remote.sha256}, {who} has {certain}. Nothing was fetched. {remedy}"
        )
    size = file.size or (pinned.size if pinned and certain else None) or remote.size
    return replace(remote, sha256=certain or remote.sha256, size=size)


def look_anywhere(line: Line, urls: Iterable[str]) -> Remote:
    """What the first address that answers says."""
    problems = []
    for url in urls:
        try:
            return look(line, url)
        except WeightsError as error:
            problems.append(str(error))
    raise WeightsError("; then ".join(problems))


def adopt(root: Path, order: Order, pinned: Locked | None) -> Locked | None:
    """The lock's entry for a file that lies there already, None when it must be fetched.

    A whole file that no command put there, with other bytes than the source's, is somebody's own choice: it stays,
    known as local. Not so where the manifest knows the one right hash.
    """
    path = root / order.file.target
    if not path.is_file() or broken(path):
        return None
    digest, size = sha256_of(path), path.stat().st_size
    if digest == order.remote.sha256 or (not order.remote.sha256 and git_blob(path) == order.remote.blob):
        return Locked(size, digest, order.known)
    ours = order.file.sha256 or (pinned and pinned.known != "local")
    return None if ours else Locked(size, digest, "local")
