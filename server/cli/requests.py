"""requests: what the queue has stored, for the operator; and its deletion."""

import re
from datetime import timedelta
from typing import Annotated

import typer
from rich.progress import track

from server.cli.options import DataDir, created_queue
from server.cli.screen import console, day, show_table
from server.files import FileStore
from server.queue.erase import Entry
from server.queue.named import MOST_NAMED, batches
from server.queue.queue import Queue
from server.settings import Settings, read_settings

UNITS = {"m": "minutes", "h": "hours", "d": "days"}

requests = typer.Typer(help="Stored requests: look at them, delete them with all they left.", no_args_is_help=True)

Owner = Annotated[str | None, typer.Option(help="Only requests of this key's name.")]


@requests.command("list")
def list_requests(
    owner: Owner = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest first.")] = 50,
    data_dir: DataDir = None,
) -> None:
    """List stored requests: no prompts, no pictures."""
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        found = queue.register(owner, most=limit)
    rows = [(one.id, one.endpoint, one.owner, state_of(one), day(one.created_at)) for one in found]
    show_table(("id", "endpoint", "owner", "state", "created"), rows)


def state_of(entry: Entry) -> str:
    return f"{entry.state} {entry.http_status}" if entry.http_status else entry.state


@requests.command("show")
def show_request(request_id: Annotated[str, typer.Argument(metavar="ID")], data_dir: DataDir = None) -> None:
    """Show what is known about one request; its prompt and pictures stay with its client."""
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        job = queue.get(request_id)
        lines = queue.logs(request_id)
    if job is None:
        raise no_such(request_id)
    facts = {
        "id": job.id,
        "endpoint": job.endpoint,
        "owner": job.owner,
        "state": job.state,
        "HTTP status": str(job.http_status or ""),
        "error": job.error_type or "",
        "created": day(job.created_at),
        "started": day(job.started_at) if job.started_at else "",
        "finished": day(job.finished_at) if job.finished_at else "",
        "attempt": str(job.attempt),
        "worker": job.worker or "",
    }
    show_table(("", ""), list(facts.items()))
    for line in lines:
        console.print(f"{day(line.timestamp)}  {line.level}  {line.message}")


@requests.command("delete")
def delete_requests(
    request_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One request.")] = None,
    owner: Annotated[str | None, typer.Option(help="All requests of this key's name, and its uploads.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Finished longer ago than this: 90m, 24h, 7d.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting many.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete requests with pictures, photos, logs and webhooks; running ones are cancelled first."""
    if (request_id is None) == (owner is None and older_than is None):
        raise typer.BadParameter("say which: either an ID, or --owner NAME, --older-than AGE or both of these")
    settings, age_s = read_settings(data_dir=data_dir), seconds_of(older_than) if older_than else None
    with created_queue(settings) as queue:
        if request_id is not None:
            if queue.get(request_id) is None:
                raise no_such(request_id)
            ids, uploads = [request_id], []
        else:
            ids = [entry.id for entry in queue.register(owner, age_s)]
            uploads = queue.ledger.owned(owner) if owner is not None and age_s is None else []
            if not yes:
                typer.confirm(f"Delete {len(ids)} requests and {len(uploads)} uploads for good?", abort=True)
        erase(queue, settings, ids, uploads)
    console.print(f"{len(ids)} requests and {len(uploads)} uploads are deleted.")


def erase(queue: Queue, settings: Settings, ids: list[str], uploads: list[str]) -> None:
    """Delete them all, showing how far it is."""
    files = FileStore(settings.resolved_files_url)
    portions = -(-len(ids) // MOST_NAMED)
    for _ in track(queue.erase(ids, files.delete), "Deleting", total=portions, console=console, disable=portions < 2):
        pass
    if uploads:
        files.delete(uploads)
        for some in batches(uploads):
            queue.ledger.forget(some)


def seconds_of(age: str) -> float:
    """``90m``, ``24h``, ``7d`` as seconds. Raises typer.BadParameter for anything else."""
    match = re.fullmatch(r"(\d{1,6})([mhd])", age)
    if not match:
        raise typer.BadParameter(f"{age} is no age: write 90m, 24h or 7d", param_hint="--older-than")
    return timedelta(**{UNITS[match[2]]: int(match[1])}).total_seconds()


def no_such(request_id: str) -> typer.Exit:
    console.print(f"There is no request {request_id}; `veraicon requests list` shows those that are stored.")
    return typer.Exit(1)
