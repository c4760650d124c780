"""Installs a bundle's weights: everything is checked beside the old ones, then one step exchanges the two.

    weights.installing  (checked)  ⇄  weights  (served until now)  →  weights.before  (for --rollback)

A process that is killed before that step has changed nothing; the leavings are removed by the next call.
"""

import ctypes
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from weights.archive import Archive, OnBytes
from weights.bundle import APPLICATION, RECORD, WEIGHTS, recorded_in
from weights.lock import LockedCheckpoint, read_lock, sole_writer, write_lock
from weights.manifest import MANIFEST, read_manifest
from weights.parts import BundleError
from weights.store import tiny_root

RENAME_EXCHANGE = 2
AT_FDCWD = -100
BASES = Path("instantid/bases")
"""A studio's own bases, which no upgrade removes."""


@dataclass(frozen=True)
class Installed:
    """Where the weights below a root came from.

    Args:
        sha256: of the bundle's index. profile: ``"full"`` or ``"tiny"``. application: version that made the bundle.
    """

    sha256: str
    profile: str
    application: str
    date: str


def installed(root: Path) -> Installed | None:
    """What `install` noted below `root`, if it was ever used. Raises BundleError when the note is unreadable."""
    try:
        return Installed(**json.loads((root / RECORD).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise BundleError(f"{root / RECORD} is damaged ({error!r}): install the bundle again") from error


def tiny_weights(folder: Path | None) -> Path:
    """The tiny weights that a bundle brought to `folder`, if it did; else those embedded here."""
    note = installed(folder) if folder else None
    return folder if folder and note and note.profile == "tiny" else tiny_root()


def install(archive: Archive, root: Path, application: str, on_bytes: OnBytes, manifest: Path = MANIFEST) -> Installed:
    """Check every file, then put the bundle's weights at `root`; the ones before are kept for `rollback`.

    Args:
        application: the version that installs. manifest: this machine's, whose hashes the bundle must not contradict.

    Raises:
        BundleError: the bundle is damaged, from another version, or does not fit on the disk; nothing was changed.
    """
    check_version(archive, application)
    check_place(archive, root)
    note = Installed(archive.sha256, archive.index.profile, archive.index.application, f"{datetime.now(UTC):%Y-%m-%d}")
    with alone(root), sole_writer(root):
        staging = beside(root, "installing")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o755)
        try:
            unpack(archive, staging, on_bytes)
            check_hashes(archive, staging, manifest)
            (staging / RECORD).write_text(json.dumps(asdict(note), indent=1) + "\n")
            keep_bases(root, staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        switch(staging, root)
    return note


def rollback(root: Path) -> None:
    """Exchange the weights with the ones before; a second call exchanges them again. Raises BundleError."""
    before = beside(root, "before")
    if not before.is_dir():
        raise BundleError(f"there are no weights to go back to: {before} is missing; install a bundle instead")
    with alone(root), sole_writer(root):
        exchange(before, root)


def check_version(archive: Archive, application: str) -> None:
    """A bundle may be older than the application, never newer. Raises BundleError."""
    made, own = (_release(version) for version in (archive.index.application, application))
    if made > own:
        raise BundleError(
            f"{archive.file} was made by Veraicon {archive.index.application}, this is {application}: "
            "install that version first (`sh install.sh` beside a bundle made with --all)"
        )


def check_place(archive: Archive, root: Path) -> None:
    """Raises BundleError when the root cannot be exchanged, or the disk is too small."""
    if root.is_symlink() or root.is_mount():
        raise BundleError(
            f"{root} is a {'link' if root.is_symlink() else 'mount point'} and cannot be exchanged in one step: "
            f"set VERAICON_WEIGHTS_DIR to a folder in it, for example {root / 'full'}"
        )
    root.absolute().parent.mkdir(parents=True, exist_ok=True)
    needed = sum(member.size for member in archive.index.members if member.path.startswith(f"{WEIGHTS}/"))
    if needed == 0:
        raise BundleError(f"{archive.file} holds no weights: make it with `veraicon weights bundle` or `bundle --all`")
    free = shutil.disk_usage(root.absolute().parent).free
    if free < needed:
        before = beside(root, "before")
        advice = (
            f"delete {before} (then there is no rollback)" if before.exists() else "make room, or choose another disk"
        )
        raise BundleError(f"{root} needs {needed / 1e9:.1f} GB beside it, {free / 1e9:.1f} GB are free: {advice}")


def unpack(archive: Archive, folder: Path, on_bytes: OnBytes) -> None:
    """Every weight of the bundle, written below `folder` and flushed to the disk. Raises BundleError."""
    for member, content in archive.members(on_bytes):
        top, _, name = member.path.partition("/")
        if top == APPLICATION:
            for _chunk in content:  # read, so that the whole bundle is checked
                pass
        elif top == WEIGHTS and name:
            write(folder / name, content)
        else:
            raise BundleError(f"{archive.file} holds {member.path}, which belongs nowhere: do not install this bundle")


def check_hashes(archive: Archive, folder: Path, manifest: Path) -> None:
    """The bundle's lock and this machine's manifest must say the same as its index. Raises BundleError."""
    hashes = {member.path.partition("/")[2]: member.sha256 for member in archive.index.members}
    known = recorded_in(read_lock(folder))
    if archive.index.profile == "full":
        known |= {
            file.target: file.sha256 for one in read_manifest(manifest).values() for file in one.files if file.sha256
        }
    for target, sha256 in known.items():
        if hashes.get(target, sha256) != sha256:
            raise BundleError(
                f"{target} in {archive.file} has sha256 {hashes[target]}, known is {sha256}: it is another file than "
                "the published one; do not install this bundle"
            )


def write(file: Path, content: Iterator[bytes]) -> None:
    """A new file, readable by the server's user whoever installs."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with file.open("xb") as stream:
        for chunk in content:
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    file.chmod(0o644)


def keep_bases(root: Path, staging: Path) -> None:
    """Carry over the bases that the bundle does not bring, with what the lock says of them, without taking disk."""
    for base in sorted((root / BASES).glob("*")) if (root / BASES).is_dir() else []:
        target = staging / BASES / base.name
        if base.name.startswith(".") or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if base.is_dir():
            shutil.copytree(base, target, symlinks=True, copy_function=os.link)
        else:
            os.link(base, target, follow_symlinks=False)
    old, new = read_lock(root).checkpoints, read_lock(staging)
    own = {name: one for name, one in old.items() if name not in new.checkpoints and is_own(one, staging)}
    if own:
        write_lock(staging, replace(new, checkpoints={**new.checkpoints, **own}))


def is_own(checkpoint: LockedCheckpoint, root: Path) -> bool:
    """Whether all its files are those of a base that lies below `root`."""
    return all(target.startswith(f"{BASES}/") and (root / target).is_file() for target in checkpoint.files)


def switch(staging: Path, root: Path) -> None:
    """Put `staging` at `root` in one step; what was there becomes the one before."""
    open_to_all(staging)
    exchange(staging, root)
    if all(path.name.startswith(".") for path in staging.iterdir()):  # there were none
        shutil.rmtree(staging)
        return
    before = beside(root, "before")
    shutil.rmtree(before, ignore_errors=True)
    staging.rename(before)


def open_to_all(folder: Path) -> None:
    """Folders that the server's user can enter, whatever the umask of who installs."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def exchange(one: Path, other: Path) -> None:
    """Two folders change names in one step that a crash cannot divide (renameat2). Raises BundleError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code in {errno.EINVAL, errno.ENOSYS, errno.EXDEV}:
            raise BundleError(
                f"the file system of {other} cannot exchange two folders in one step (NFS cannot): "
                "set VERAICON_WEIGHTS_DIR to a folder on a local disk"
            )
        raise OSError(code, os.strerror(code), str(other))


def beside(root: Path, what: str) -> Path:
    """The folder `what` of a weights root: on the same disk, so that exchanging is a matter of names."""
    return root.absolute().with_name(f"{root.name}.{what}")


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Nobody else installs here meanwhile. Raises BundleError."""
    with beside(root, "guard").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(f"another `veraicon weights install` works on {root}: wait until it has ended") from None
        yield


def _release(version: str) -> tuple[int, ...]:
    """Major and minor: a third number never changes a format."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
