"""Readiness: whether a request that comes now will be served; if not, every reason with what to do about it."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy.exc import SQLAlchemyError

from server.queue.job import Condition, WorkerState
from server.queue.pauses import Pause
from server.queue.queue import Queue
from server.settings import Settings

LEAST_FREE_MB = 64
"""Below this the next pictures may not find room."""

REMEDIES: dict[Condition, str] = {
    "loading": "wait: it takes up to some minutes",
    "failed": "put that right, or look into the log of that process",
    "quarantined": "look at that GPU, then restart the server there for a try at once",
}


@dataclass(frozen=True)
class Readiness:
    """Ready where there are no reasons. `workers`: what each last said; `paused`: what an operator holds back."""

    reasons: Sequence[str]
    workers: Sequence[WorkerState] = ()
    paused: Sequence[Pause] = ()


def readiness_of(queue: Queue, settings: Settings) -> Readiness:
    try:
        workers, paused, refusal = queue.workers(), queue.pauses.every(), queue.writability.refusal()
    except SQLAlchemyError as error:
        return Readiness([unreachable(error)])
    unwritable = [refusal] if refusal else []
    return Readiness([*why_no_worker(workers), *unwritable, *why_no_room(settings)], workers, paused)


def unreachable(error: SQLAlchemyError) -> str:
    """The error's kind only: its text may hold a part of a statement."""
    return (
        f"the queue cannot be reached ({type(error).__name__}): look whether the database of VERAICON_DATABASE_URL "
        "answers; the server goes on by itself as soon as it does"
    )


def why_no_worker(workers: Sequence[WorkerState]) -> Iterator[str]:
    """Nothing as long as one worker is ready: the others' states are in the body."""
    if not workers:
        yield "no worker is running: start one with `veraicon worker` or `veraicon serve`"
    elif not any(worker.state == "ready" for worker in workers):
        for worker in workers:
            remedy = REMEDIES.get(worker.state, "look into its log")
            yield f"worker {worker.name} on {worker.device} is {worker.state}: {worker.message} -> {remedy}"


def why_no_room(settings: Settings) -> Iterator[str]:
    """The pictures may lie on a disk of their own, or on none of this host."""
    files = urlsplit(settings.resolved_files_url)
    folders = {"data_dir": settings.data_dir.absolute()}
    if files.scheme == "file":
        folders["files_url"] = Path(unquote(files.path))
    told = set[int]()
    for setting, folder in folders.items():
        try:
            free_mb, disk = shutil.disk_usage(folder).free // 1_000_000, folder.stat().st_dev
        except OSError as error:
            yield f"{folder} cannot be looked at ({error.strerror}): mount it, or make it, or change {setting}"
            continue
        if free_mb < LEAST_FREE_MB and disk not in told:
            told.add(disk)
            yield f"only {free_mb} MB of disk are free in {folder}: make room, or move {setting}"
