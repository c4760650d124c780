"""weights pull: download the checkpoints, under licences that somebody has accepted."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from server.cli.options import DataDir
from server.cli.screen import console
from server.imports import opened
from server.settings import Settings, read_settings
from weights.folder import draw_up_from
from weights.licences import accept, unaccepted
from weights.lock import Lock, Locked, read_lock, sole_writer, write_lock
from weights.manifest import Checkpoint, WeightsError, read_manifest, select
from weights.plan import Ask, Order, Plan, draw_up
from weights.pull import bytes_to_come, fetch_all, open_line, require_room

ALL = "all"
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Checkpoints, or endpoints by their ids, or all; by default what the endpoints need."),
]
From = Annotated[
    Path | None, typer.Option("--from", help="Take the files from this folder, and nothing from the network.")
]
Endpoint = Annotated[str | None, typer.Option(help="A mirror of the Hugging Face hub. [VERAICON_HUB_ENDPOINT]")]
AcceptLicence = Annotated[
    list[str] | None, typer.Option(help="Accept the licence of this checkpoint, or all; asked once otherwise.")
]
Update = Annotated[bool, typer.Option(help="Look for newer commits than those that weights.lock pins.")]
Jobs = Annotated[int, typer.Option(min=1, max=16, help="Files at a time.")]


def pull(  # noqa: PLR0913  each is an option of the command
    names: Names = None,
    source: From = None,
    endpoint: Endpoint = None,
    accept_licence: AcceptLicence = None,
    update: Update = False,
    jobs: Jobs = 4,
    data_dir: DataDir = None,
) -> None:
    """Download checkpoints: resumed where it was left, verified, pinned in weights.lock. Ctrl-C loses nothing."""
    settings = read_settings(data_dir=data_dir, hub_endpoint=endpoint)
    root, manifest = settings.resolved_weights_dir, read_manifest(settings.weights_manifest)
    checkpoints = chosen(names or (), settings, manifest)
    with sole_writer(root):
        agree(root, checkpoints, accept_licence or ())
        fetch(root, checkpoints, settings, source, Ask(update=update), jobs)
    console.print("Next: `veraicon weights prepare`")


def chosen(names: Sequence[str], settings: Settings, manifest: dict[str, Checkpoint]) -> list[Checkpoint]:
    """The checkpoints of these names, an endpoint standing for those that it needs.

    Raises:
        WeightsError: a name that is neither.
    """
    needs = {endpoint.id: endpoint.checkpoints for endpoint in opened(settings.catalog)}
    if ALL in names:
        return list(manifest.values())
    return select((one for name in names or needs for one in needs.get(name, (name,))), manifest)


def agree(root: Path, checkpoints: Sequence[Checkpoint], accepted: Sequence[str]) -> None:
    """Have every licence accepted once, by option or by hand, and remember the day in the lock.

    Raises:
        WeightsError: one is not accepted.
    """
    lock = read_lock(root)
    waiting = unaccepted(checkpoints, lock)
    asked = [one for one in waiting if ALL not in accepted and one.name not in accepted]
    for one in waiting:
        console.print(f"{one.name}: {one.licence} ({one.page})\n  commercial use: {one.commercial_use}. {one.reason}")
    names = ", ".join(one.name for one in asked)
    if asked and not sys.stdin.isatty():
        raise WeightsError(
            f"the licences of {names} are not accepted. Read them (LICENCES.md), then say so: "
            f"`--accept-licence {asked[0].name}`, once for each, or `--accept-licence all`"
        )
    if asked and not typer.confirm(f"Have you read and do you accept the licences of {names}?"):
        raise WeightsError("without their licences accepted, nothing is downloaded")
    if waiting:
        write_lock(root, accept(lock, waiting, datetime.now(UTC).date()))


def fetch(
    root: Path, checkpoints: Sequence[Checkpoint], settings: Settings, source: Path | None, ask: Ask, jobs: int = 4
) -> None:
    """Fetch what is missing and record it. Raises WeightsError naming every file that could not be had."""
    line = open_line(settings.hub_endpoint)
    with line.client:
        lock = read_lock(root)
        with console.status("Comparing with the source"):
            if source:
                plan = draw_up_from(source, root, checkpoints, read_manifest(settings.weights_manifest), ask)
            else:
                plan = draw_up(root, checkpoints, lock, line, ask)
        lock = keep(root, lock, plan)
        total, arrived = bytes_to_come(root, plan.orders)
        if not plan.orders:
            console.print(f"{root.absolute()} has every file of {', '.join(one.name for one in checkpoints)}")
            return
        require_room(root, total - arrived)
        console.print(f"{len(plan.orders)} files, {total / 1e9:.2f} GB, {arrived / 1e9:.2f} GB of it here already")
        failures = []
        with bar(console.is_terminal) as progress:
            task = progress.add_task("weights", total=total, completed=arrived)
            outcomes = fetch_all(root, plan.orders, lock, line, lambda size: progress.advance(task, size), jobs)
            for order, outcome in outcomes:
                if isinstance(outcome, Locked):
                    lock = record(root, lock, order, outcome)
                    progress.console.print(f"  {order.file.target}  {said(outcome)}")
                else:
                    failures.append(str(outcome))
    if failures:
        raise WeightsError("\n  ".join([f"{len(failures)} files are still missing:", *failures]))


def keep(root: Path, lock: Lock, plan: Plan) -> Lock:
    """Record the files that were there; say which of them are somebody's own."""
    for order, entry in plan.kept:
        lock = record(root, lock, order, entry)
        note = "is not the source's file: left as it is" if entry.known == "local" else f"is there, {said(entry)}"
        console.print(f"  {order.file.target}  {note}")
    return lock


def record(root: Path, lock: Lock, order: Order, entry: Locked) -> Lock:
    one = order.checkpoint
    newer = lock.with_file(one.name, one.repository, order.commit, order.file.target, entry)
    write_lock(root, newer)
    return newer


def said(entry: Locked) -> str:
    """By whose word a file is right, for a person."""
    words = {
        "manifest": "verified, the manifest's hash",
        "hub": "verified, the hub's hash, pinned",
        "release": "pinned; its release tells no hash",
        "local": "pinned as it is; nobody tells its hash",
    }
    return f"{words[entry.known]} ({entry.sha256[:12]})"


def bar(visible: bool) -> Progress:
    """Bytes done, speed and the time that is left; nothing where nobody watches."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not visible)


def repair(root: Path, targets: Iterable[str], checkpoints: Sequence[Checkpoint], settings: Settings) -> None:
    """Fetch these files again, whatever lies there. Raises WeightsError."""
    again = tuple(targets)
    affected = [one for one in checkpoints if any(file.target in again for file in one.files)]
    needed = [replace(one, files=tuple(file for file in one.files if file.target in again)) for one in affected]
    agree(root, needed, ())
    fetch(root, needed, settings, None, Ask(again=again))
