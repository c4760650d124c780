"""weights.lock: which bytes lie below a weights root, where they came from, and by whose word they are the right ones.

One JSON file in the root; `veraicon weights pull`, `prepare`, `install` and `add-base` write it, the server reads it.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from weights.manifest import WeightsError

LOCK, GUARD = "weights.lock", ".weights.guard"
FORMAT = 1

Known = Literal["manifest", "hub", "release", "local"]


@dataclass(frozen=True)
class Locked:
    """One file's exact bytes.

    Args:
        size: bytes. sha256: hex.
        known: who says that they are right: our ``"manifest"``; the ``"hub"``'s or a ``"release"`` page's own word at
            the first download, pinned here since; or nobody but whoever put the file there: ``"local"``.
    """

    size: int
    sha256: str
    known: Known


@dataclass(frozen=True)
class LockedCheckpoint:
    """A checkpoint's files by their targets (below the root, with forward slashes).

    Args:
        repository: as in the manifest; for a base of one's own the path that it was added from.
        commit: the repository's, resolved; a release's tag; "" where there is neither.
    """

    repository: str
    commit: str = ""
    files: Mapping[str, Locked] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A file that `veraicon weights prepare` made.

    Args:
        made_from: sha256 by target, of every file that went into it.
        dtype: the precision in which it was written.
    """

    size: int
    sha256: str
    made_from: Mapping[str, str]
    dtype: str


@dataclass(frozen=True)
class Lock:
    """What the file says.

    Args:
        checkpoints: by name. prepared: by target.
        licences: day of acceptance (ISO 8601) by checkpoint.
    """

    checkpoints: Mapping[str, LockedCheckpoint] = field(default_factory=dict)
    prepared: Mapping[str, Prepared] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Locked]:
        """Every checkpoint's files, by target."""
        return {target: file for one in self.checkpoints.values() for target, file in one.files.items()}

    def with_file(self, name: str, repository: str, commit: str, target: str, file: Locked) -> "Lock":
        """The same with one more file, or another one in its place, of the checkpoint `name`."""
        old = self.checkpoints.get(name, LockedCheckpoint(repository))
        new = LockedCheckpoint(repository, commit, {**old.files, target: file})
        return replace(self, checkpoints={**self.checkpoints, name: new})


def read_lock(root: Path) -> Lock:
    """The root's lock; an empty one when there is none.

    Raises:
        WeightsError: it cannot be understood, or a later version wrote it.
    """
    path = root / LOCK
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return Lock()
    try:
        return parse(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} cannot be understood ({error}). Bring it back from a backup; or delete it, and "
            "`veraicon weights pull` looks at every file again"
        ) from error


def parse(text: str) -> Lock:
    """A lock's JSON. Raises ValueError, KeyError, TypeError or AttributeError when it is none of this format."""
    table: dict[str, Any] = json.loads(text)
    if table["format"] != FORMAT:
        raise ValueError(f"format {table['format']}, this version of Veraicon reads {FORMAT}")
    return Lock(
        checkpoints={
            name: LockedCheckpoint(
                one["repository"], one["commit"], {target: Locked(**file) for target, file in one["files"].items()}
            )
            for name, one in table["checkpoints"].items()
        },
        prepared={target: Prepared(**one) for target, one in table["prepared"].items()},
        licences=dict(table["licences"]),
    )


def render(lock: Lock) -> str:
    """What `parse` reads, in an order that does not depend on the order of downloads."""
    return json.dumps({"format": FORMAT, **asdict(lock)}, indent=1, sort_keys=True) + "\n"


def write_lock(root: Path, lock: Lock) -> None:
    """Replace the root's lock at once: a reader sees the old or the new one, a power cut leaves one of them."""
    handle, name = tempfile.mkstemp(dir=root, prefix=f".{LOCK}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(render(lock))
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(root / LOCK)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def sole_writer(root: Path) -> Iterator[None]:
    """While inside, no other command changes this root; the kernel ends it with the process.

    Raises:
        WeightsError: another command is at it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / GUARD).open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WeightsError(f"another `veraicon weights` command is at work in {root}: wait for its end") from error
        yield
