"""weights: the checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import DataDir
from server.cli.screen import console, show_table
from server.settings import read_settings
from weights.licences import table
from weights.manifest import Checkpoint, read_manifest, select
from weights.store import missing

weights = typer.Typer(help="The checkpoints.", no_args_is_help=True)


@weights.command("list")
def list_weights(
    names: Annotated[list[str] | None, typer.Argument(help="Show these checkpoints file by file.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List every checkpoint: whether it is here, its size and its licence; or where its files come from and go."""
    root = read_settings(data_dir=data_dir).resolved_weights_dir
    manifest = read_manifest()
    if names:
        for checkpoint in select(names, manifest):
            show_files(checkpoint, root.absolute())
        return
    lacking = {one.checkpoint.name for one in missing(manifest, root)}
    rows = [
        (name, "missing" if name in lacking else "present", megabytes(name), licence, use)
        for name, _, licence, use, _ in table(manifest.values())
    ]
    console.print(f"In {root.absolute()}:")
    show_table(("checkpoint", "state", "MB", "licence", "commercial use"), rows)
    console.print("Where a checkpoint's files come from and go: `veraicon weights list NAME`")


def show_files(checkpoint: Checkpoint, root: Path) -> None:
    """One checkpoint for a person who fetches it by hand."""
    console.print(f"{checkpoint.name}: {checkpoint.title}, {checkpoint.licence} ({checkpoint.page})")
    console.print(f"  commercial use: {checkpoint.commercial_use}: {checkpoint.reason}")
    problems = {one.file: one.problem for one in missing([checkpoint.name], root)}
    for file in checkpoint.files:
        size = f", {file.megabytes} MB" if file.megabytes else ""
        console.print(f"  {checkpoint.url(file)}\n    -> {root / file.target} ({problems.get(file, 'present')}{size})")


def megabytes(name: str) -> str:
    return str(sum(file.megabytes for file in read_manifest()[name].files))
