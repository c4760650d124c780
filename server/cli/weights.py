"""weights: the checkpoints: which there are, how they come here, whether they are right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import DataDir
from server.cli.prepare import prepare
from server.cli.pull import ALL, Names, bar, chosen, pull, repair
from server.cli.screen import console, show_table
from server.imports import opened
from server.settings import Settings, read_settings
from weights.licences import table
from weights.lock import Lock, read_lock, sole_writer
from weights.manifest import Checkpoint, WeightsError, read_manifest, select
from weights.prepared import recipes, stored_dtype, unprepared
from weights.store import misfits, missing
from weights.verify import Proof, disprove, own_bases, own_checkpoints, proofs, unknown, visible

weights = typer.Typer(help="The checkpoints.", no_args_is_help=True)
weights.command()(pull)
weights.command()(prepare)


@weights.command("list")
def list_weights(
    names: Annotated[list[str] | None, typer.Argument(help="Show these checkpoints file by file.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List every checkpoint: who needs it, whether it is here, size, licence; or where its files come from and go."""
    settings = read_settings(data_dir=data_dir)
    root, manifest = settings.resolved_weights_dir, read_manifest(settings.weights_manifest)
    if names:
        for checkpoint in select(names, manifest):
            show_files(checkpoint, root.absolute(), manifest)
        return
    lock, needs = read_lock(root), needed_by(settings)
    lacking = {one.checkpoint.name for one in missing(manifest, root, manifest)}
    rows = [
        (name, needs.get(name, "optional"), state(manifest[name], lacking, lock), megabytes(manifest[name]), *terms)
        for name, _, *terms, _ in table(manifest.values())
    ]
    rows += own_rows(root, lock)
    console.print(f"In {root.absolute()}:")
    show_table(("checkpoint", "needed by", "state", "MB", "licence", "commercial use"), rows)
    console.print("One checkpoint's files: `veraicon weights list NAME`. Get them: `veraicon weights pull [NAME]`")


def needed_by(settings: Settings) -> dict[str, str]:
    """The endpoints that cannot be served without a checkpoint, by its name."""
    needs: dict[str, list[str]] = {}
    for endpoint in opened(settings.catalog):
        for name in endpoint.checkpoints:
            needs.setdefault(name, []).append(endpoint.folder)
    return {name: " ".join(folders) for name, folders in needs.items()}


def own_rows(root: Path, lock: Lock) -> list[tuple[str, ...]]:
    """A studio's own bases, of whose licences we know nothing."""
    rows = []
    for name, one in own_checkpoints(lock).items():
        there = all((root / target).is_file() for target in one.files)
        size = round(sum(file.size for file in one.files.values()) / 1e6)
        rows.append((name, "model_name", "present" if there else "missing", str(size), "your own", "unclear"))
    return rows


def state(checkpoint: Checkpoint, lacking: set[str], lock: Lock) -> str:
    """missing; present: nobody has told its hashes; verified: each file had its hash when it came."""
    known = [lock.files.get(file.target) for file in checkpoint.files]
    if checkpoint.name in lacking:
        return "missing"
    return "verified" if all(one and one.known in {"manifest", "hub"} for one in known) else "present"


def show_files(checkpoint: Checkpoint, root: Path, manifest: Mapping[str, Checkpoint]) -> None:
    """One checkpoint for a person who fetches it by hand."""
    console.print(f"{checkpoint.name}: {checkpoint.title}, {checkpoint.licence} ({checkpoint.page})")
    console.print(f"  commercial use: {checkpoint.commercial_use}: {checkpoint.reason}")
    if checkpoint.alternatives:
        console.print(f"  instead: {checkpoint.alternatives}")
    problems = {one.file: one.problem for one in missing([checkpoint.name], root, manifest)}
    for file in checkpoint.files:
        size = f", {file.megabytes} MB" if file.megabytes else ""
        console.print(f"  {checkpoint.url(file)}\n    -> {root / file.target} ({problems.get(file, 'present')}{size})")


def megabytes(checkpoint: Checkpoint) -> str:
    return str(sum(file.megabytes for file in checkpoint.files))


@weights.command()
def verify(
    names: Names = None,
    deep: Annotated[bool, typer.Option(help="Read every byte and compare the hashes.")] = False,
    mend: Annotated[bool, typer.Option("--repair", help="Download again what is wrong.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Look whether the files are there, whole, and the right ones; say which is not, and why. Exit status 1 then."""
    settings = read_settings(data_dir=data_dir)
    root, manifest = settings.resolved_weights_dir, read_manifest(settings.weights_manifest)
    checkpoints = chosen(names or (), settings, manifest)
    own = own_bases(root) if not names or ALL in names else []
    found = examine(root, checkpoints, own, settings, deep=deep)
    for target, problem in found.items():
        console.print(f"  {target} {problem}")
    wrong = [target for target in found if target in {file.target for one in checkpoints for file in one.files}]
    if mend and wrong:
        with sole_writer(root):
            repair(root, wrong, checkpoints, settings)
        found = examine(root, checkpoints, own, settings, deep=deep)
    if found:
        raise WeightsError(f"{len(found)} files in {root.absolute()} are not right: {', '.join(found)}")
    read = "every byte is right" if deep else "every file is there and whole; `--deep` compares every byte"
    console.print(f"{root.absolute()}: {len(checkpoints)} checkpoints: {read}")


def examine(
    root: Path, checkpoints: Sequence[Checkpoint], own: Sequence[Proof], settings: Settings, *, deep: bool
) -> dict[str, str]:
    """What is wrong, by target: presence, sizes and headers; and if deep, every byte. `own`: a studio's own bases."""
    manifest, names = read_manifest(settings.weights_manifest), [one.name for one in checkpoints]
    found = [*missing(names, root, manifest), *misfits(names, root, manifest)]
    problems = {one.file.target: one.problem for one in found}
    made = {recipe.target for recipe in recipes(manifest, names)} & read_lock(root).prepared.keys()
    stale = unprepared(names, root, stored_dtype(settings.resolved_dtype), manifest)
    problems |= {target: problem for target, problem in stale if target in made}
    problems |= {one.target: problem for one in own if (problem := visible(root, one))}
    if not deep:
        return problems
    return problems | read_all(root, [*proofs(checkpoints, root, manifest), *own], problems)


def read_all(root: Path, found: Sequence[Proof], known: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with bytes of files that look right."""
    todo = [one for one in found if one.target not in known]
    for target in unknown(todo):
        console.print(f"  {target}: nobody has told its hash; `veraicon weights pull` asks its source")
    with bar(console.is_terminal) as progress:
        task = progress.add_task("verify", total=sum(one.size for one in todo))
        told = {one.target: disprove(root, one, lambda size: progress.advance(task, size)) for one in todo}
    return {target: problem for target, problem in told.items() if problem}
