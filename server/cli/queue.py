"""queue: what waits and runs, for the operator; and whether all that is stored fits together."""

from typing import Annotated

import typer

from server.cli.options import DataDir, created_queue
from server.cli.screen import console, day, show_table
from server.files import FileStore
from server.imports import opened
from server.queue.audit import audit
from server.queue.census import Depth
from server.queue.job import PRIORITIES
from server.settings import Settings, read_settings

MOST_SHOWN = 50

Named = Annotated[str | None, typer.Argument(metavar="[ENDPOINT]", help="Its id; without: every endpoint.")]

queue = typer.Typer(help="The queue: look at it, pause it, check it.", no_args_is_help=True)


@queue.command("show")
def show_queue(data_dir: DataDir = None) -> None:
    """Show what waits, by endpoint and priority, what runs, what is paused, and the workers."""
    with created_queue(read_settings(data_dir=data_dir)) as opened_queue:
        figures, workers = opened_queue.census.take(), opened_queue.workers()
        paused = {pause.endpoint: pause for pause in opened_queue.pauses.every()}
    waiting = {(depth.endpoint, PRIORITIES[depth.priority]): depth for depth in figures.depths}
    names = sorted({name for name, _ in waiting} | figures.running.keys() | paused.keys())
    rows = [
        (
            name,
            *(cell(waiting.get((name, priority))) for priority in PRIORITIES),
            str(figures.running.get(name, 0)),
            f"since {day(paused[name].since)} {paused[name].reason}".rstrip() if name in paused else "",
        )
        for name in names
    ]
    show_table(("endpoint", "waiting, normal", "waiting, low", "running", "paused"), rows)
    if not rows:
        console.print("Nothing waits, nothing runs, nothing is paused.")
    console.print("")
    show_table(("worker", "device", "state", ""), [(one.name, one.device, one.state, one.message) for one in workers])
    if not workers:
        console.print("No worker is running; start one with `veraicon worker` or `veraicon serve`.")


def cell(depth: Depth | None) -> str:
    return f"{depth.number}, the oldest for {depth.oldest_s:.0f} s" if depth else "0"


@queue.command("pause")
def pause_queue(
    endpoint: Named = None,
    reason: Annotated[str, typer.Option(help="Why; operators see it here and in /ready.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Begin no more requests of an endpoint. Requests are still taken and wait; what runs ends as usual."""
    settings = read_settings(data_dir=data_dir)
    names = chosen(settings, endpoint)
    with created_queue(settings) as opened_queue:
        for name in names:
            opened_queue.pauses.pause(name, reason)
            console.print(f"{name} is paused; `veraicon queue resume {name}` lets it go on.")


@queue.command("resume")
def resume_queue(endpoint: Named = None, data_dir: DataDir = None) -> None:
    """Let a paused endpoint go on at once."""
    settings = read_settings(data_dir=data_dir)
    with created_queue(settings) as opened_queue:
        paused = [pause.endpoint for pause in opened_queue.pauses.every()]
        names = paused if endpoint is None else [endpoint] if endpoint in paused else chosen(settings, endpoint)
        for name in names:
            resumed = opened_queue.pauses.resume(name)
            console.print(f"{name} goes on." if resumed else f"{name} was not paused.")
    if not names:
        console.print("Nothing was paused.")


def chosen(settings: Settings, name: str | None) -> list[str]:
    """The endpoint of this id or alias, or all. Raises typer.BadParameter for one that is not offered."""
    offered = opened(settings.catalog)
    found = [one.id for one in offered if name is None or name == one.id or name in one.aliases]
    if not found:
        known = ", ".join(one.id for one in offered)
        raise typer.BadParameter(f"{name} is not offered here; there are {known}", param_hint="ENDPOINT")
    return found


@queue.command("audit")
def audit_queue(
    stopped: Annotated[
        bool, typer.Option("--stopped", help="No server and no worker is running: nothing may be half done.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Check that requests, webhooks and files agree with each other; exit status 1 if not. Changes nothing."""
    settings = read_settings(data_dir=data_dir)
    files = FileStore(settings.resolved_files_url)
    with created_queue(settings) as opened_queue, console.status("Comparing requests, webhooks and files …"):
        found = audit(opened_queue, files, quiet=stopped, keep_s=settings.keep_results_h * 3600)
    for told in found[:MOST_SHOWN]:
        console.print(told)
    if not found:
        console.print("Requests, webhooks and files agree with each other.")
        return
    more = f" ({len(found) - MOST_SHOWN} more are not shown)" if len(found) > MOST_SHOWN else ""
    console.print(
        f"{len(found)} contradictions{more}. The server goes on. `veraicon requests delete ID` removes a request with "
        "all it left; a file that nobody knows ends with keep_results_h; a damaged database needs a backup "
        "(docs/operations.md)."
    )
    raise typer.Exit(1)
