"""A studio's own SDXL checkpoints: into the folder of bases after a look at their shapes, and into the lock."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from weights.lock import Lock, Locked, read_lock, sole_writer, write_lock
from weights.manifest import WeightsError

INSTANTID, BASES = "instantid", "bases"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
CHUNK = 1 << 20

Check = Callable[[Path, str], None]
"""Given the weights root and the name of a base below it, raises WeightsError when it does not fit."""

OnBytes = Callable[[int], None]
"""Told how many bytes were done since the last call."""


def add(name: str, source: Path, root: Path, *, link: bool, check: Check, on_bytes: OnBytes) -> Path:
    """Put a base below the weights root, check it there, then give it its name. Returns where it is.

    Args:
        name: letters, digits, dots, dashes and underscores, 60 at most.
        source: a .safetensors file, or a diffusers folder with `unet/`.
        link: hard links instead of copies; a symbolic link would lead out of the root.

    Raises:
        WeightsError: the name is taken, the file is no safetensors, the shapes are not SDXL's; nothing is left behind.
    """
    single = check_source(name, source)
    bases = root / INSTANTID / BASES
    end = ".safetensors" if single else ""
    for taken in (bases / name, bases / f"{name}.safetensors"):
        if taken.exists():
            raise WeightsError(f"{taken} exists already: choose another name, or `veraicon weights remove-base {name}`")
    hidden = f".{name}.adding"
    target, staging = bases / f"{name}{end}", bases / f"{hidden}{end}"
    with sole_writer(root):
        bases.mkdir(parents=True, exist_ok=True)
        remove(staging)
        try:
            hashes = bring(source, staging, link, on_bytes)
            check(root, hidden)
            staging.rename(target)
        finally:
            remove(staging)
        write_lock(root, recorded(read_lock(root), name, source, target.relative_to(root).as_posix(), hashes))
    return target


def forget(name: str, root: Path) -> None:
    """Remove a base from the weights root and from the lock. Raises WeightsError when there is none."""
    entry, places = f"{BASES}/{name}", [root / INSTANTID / BASES / f"{name}{end}" for end in ("", ".safetensors")]
    with sole_writer(root):
        lock = read_lock(root)
        there = [place for place in places if place.exists()] if NAME.fullmatch(name) else []
        if not there and entry not in lock.checkpoints:
            raise WeightsError(f"there is no base {name!r} in {root / INSTANTID / BASES}: look at the names there")
        for place in there:
            remove(place)
        others = {known: one for known, one in lock.checkpoints.items() if known != entry}
        write_lock(root, replace(lock, checkpoints=others))


def check_source(name: str, source: Path) -> bool:
    """Whether the source is one file. Raises WeightsError for a name or a source that cannot be used."""
    if not NAME.fullmatch(name):
        raise WeightsError(f"{name!r} is no name for a base: use letters, digits, dots, dashes and underscores")
    if source.is_file() and source.suffix == ".safetensors":
        return True
    if (source / "unet").is_dir():
        return False
    if source.is_file():
        raise WeightsError(f"{source} is no .safetensors file: a .ckpt may hold code; convert it to safetensors first")
    raise WeightsError(f"{source} is neither a .safetensors file nor a diffusers folder with unet/: check the path")


def size_of(source: Path) -> int:
    """Bytes of a base, for a progress bar; 0 when there is none."""
    return sum(file.stat().st_size for file in files_of(source))


def files_of(source: Path) -> list[Path]:
    """The file itself, or what a folder holds besides hidden files."""
    if source.is_file():
        return [source]
    found = sorted(path for path in source.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(source).parts)]


def bring(source: Path, staging: Path, link: bool, on_bytes: OnBytes) -> dict[str, Locked]:
    """Copy or link every file; what each one is, by its path below the base ("" for a single file)."""
    free = shutil.disk_usage(staging.parent).free
    if not link and size_of(source) > free:
        raise WeightsError(
            f"{source} needs {size_of(source) / 1e9:.1f} GB, {free / 1e9:.1f} GB are free below {staging.parent}: "
            "make room, or add --link if it is on the same disk"
        )
    hashes = {}
    for file in files_of(source):
        inner = "" if source.is_file() else file.relative_to(source).as_posix()
        target = staging / inner if inner else staging
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            hard_link(file, target)
        hashes[inner] = read(file, None if link else target, on_bytes)
    return hashes


def hard_link(file: Path, target: Path) -> None:
    try:
        os.link(file.resolve(), target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise WeightsError(f"{file} is on another disk than {target.parent}: leave out --link") from error
        raise


def read(file: Path, target: Path | None, on_bytes: OnBytes) -> Locked:
    """What a file is; copied to `target` on the way."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream, (target or Path(os.devnull)).open("wb") as copy:
        while chunk := stream.read(CHUNK):
            copy.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            on_bytes(len(chunk))
        if target:
            copy.flush()
            os.fsync(copy.fileno())
    return Locked(size, digest.hexdigest(), "local")


def recorded(lock: Lock, name: str, source: Path, target: str, hashes: dict[str, Locked]) -> Lock:
    """The lock with one checkpoint more, called `bases/NAME`."""
    for inner, file in hashes.items():
        path = f"{target}/{inner}" if inner else target
        lock = lock.with_file(f"{BASES}/{name}", str(source.absolute()), "", path, file)
    return lock


def remove(path: Path) -> None:
    """Whatever an earlier, killed call has left."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
