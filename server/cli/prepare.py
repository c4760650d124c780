"""weights prepare: make what the server maps at its start, and keep account of what was made of what."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from server.cli.options import DataDir
from server.cli.pull import Names, bar, chosen
from server.cli.screen import console
from server.settings import Settings, child_environment, read_settings
from weights.lock import Lock, Locked, Prepared, read_lock, sole_writer, write_lock
from weights.manifest import WeightsError, read_manifest
from weights.prepared import Recipe, problem_of, recipes, stored_dtype
from weights.pull import require_room
from weights.store import AGAIN, missing, sha256_of

PROGRAM = "pipelines.prepare"


def prepare(names: Names = None, data_dir: DataDir = None) -> None:
    """Write pickles again as safetensors and the LCM LoRA into its UNet, in the precision that the server runs in."""
    settings = read_settings(data_dir=data_dir)
    root, manifest = settings.resolved_weights_dir, read_manifest(settings.weights_manifest)
    dtype = stored_dtype(settings.resolved_dtype)
    checkpoints = [one.name for one in chosen(names or (), settings, manifest)]
    with sole_writer(root):
        lacking = {one.checkpoint.name for one in missing(checkpoints, root, manifest)}
        if lacking:
            console.print(f"Not there, or not whole: {', '.join(sorted(lacking))} (`veraicon weights pull`)")
        found = recipes(manifest, [name for name in checkpoints if name not in lacking])
        if lacking and not found:
            raise WeightsError(f"there is nothing to prepare in {root.absolute()}: `veraicon weights pull` comes first")
        lock = read_lock(root)
        due = [one for one in found if problem_of(one, root, lock, dtype)]
        make_all(root, due, dtype, settings)
    console.print(f"{len(due)} files made as {dtype}, {len(found) - len(due)} were ready. Next: `veraicon serve`")


def make_all(root: Path, due: Sequence[Recipe], dtype: str, settings: Settings) -> None:
    """Make these files and record each, so that what is made stays made. Raises WeightsError naming a file."""
    if not due:
        return
    sizes = {one.target: sum((root / t).stat().st_size for _, t in one.source_files(root)) for one in due}
    require_room(root, max(sizes.values()) * 2)
    with bar(console.is_terminal) as progress:
        task = progress.add_task("weights", total=2 * sum(sizes.values()))
        lock, used = account(root, due, read_lock(root), lambda size: progress.advance(task, size))
        for target in made(root, due, dtype, settings):
            path = root / target
            entry = Prepared(path.stat().st_size, sha256_of(path), used[target], dtype)
            lock = replace(lock, prepared={**lock.prepared, target: entry})
            write_lock(root, lock)
            progress.advance(task, sizes[target])
            progress.console.print(f"  {target}  {entry.size / 1e6:.1f} MB, of {', '.join(used[target])}")


def account(
    root: Path, due: Sequence[Recipe], lock: Lock, report: Callable[[int], None]
) -> tuple[Lock, dict[str, dict[str, str]]]:
    """Hash what goes into the recipes; by target what each is made of. Files that nobody has recorded become local.

    Raises:
        WeightsError: a file is not what the lock says.
    """
    used: dict[str, dict[str, str]] = {}
    for recipe in due:
        used[recipe.target] = {}
        for checkpoint, target in recipe.source_files(root):
            path = root / target
            digest, known = sha256_of(path), lock.files.get(target)
            report(path.stat().st_size)
            if known and known.known != "local" and known.sha256 != digest:
                raise WeightsError(f"{path} has sha256 {digest}, weights.lock says {known.sha256}: {AGAIN}")
            if known is None or known.sha256 != digest:
                entry = Locked(path.stat().st_size, digest, "local")
                old = lock.checkpoints.get(checkpoint.name)
                lock = lock.with_file(checkpoint.name, checkpoint.repository, old.commit if old else "", target, entry)
            used[recipe.target][target] = digest
    return lock, used


def made(root: Path, due: Sequence[Recipe], dtype: str, settings: Settings) -> Iterator[str]:
    """Run the program that knows torch; the targets as they are written. Raises WeightsError with its last words."""
    command = [sys.executable, "-m", PROGRAM, str(root.absolute()), *(one.target for one in due), "--dtype", dtype]
    with subprocess.Popen(
        command, env=child_environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout and program.stderr
        for line in program.stdout:
            with suppress(ValueError):  # a library that prints
                yield json.loads(line)["written"]
        words = program.stderr.read().strip()
    if program.returncode:
        raise WeightsError(words.splitlines()[-1] if words else f"{PROGRAM} ended with {program.returncode}")
