"""Options that several commands share, and the queue that they open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from server.queue.migrations import create_tables
from server.queue.opening import open_queue
from server.queue.queue import Queue
from server.settings import Settings
from weights.install import installed

DataDir = Annotated[Path | None, typer.Option(help="Where queue, pictures and keys live. [VERAICON_DATA_DIR]")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="full; tiny: no download, pictures are noise; or a folder of installed weights. [VERAICON_WEIGHTS]"
    ),
]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:N or cpu. [VERAICON_DEVICE]")]
Host = Annotated[str | None, typer.Option(help="Address to listen on. [VERAICON_HOST]")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [VERAICON_PORT]")]
Tls = Annotated[bool, typer.Option("--tls/--no-tls", help="HTTPS, with a certificate issued in DATA_DIR/tls.")]


def chosen_weights(weights: str | None) -> dict[str, object]:
    """The settings that --weights stands for. Raises typer.BadParameter when it is neither a profile nor a folder."""
    if weights is None or weights in {"full", "tiny"}:
        return {"weights": weights}
    folder = Path(weights)
    if not folder.is_dir():
        raise typer.BadParameter(f"{weights} is neither full, tiny nor a folder", param_hint="--weights")
    note = installed(folder)
    return {"weights": note.profile if note else "full", "weights_dir": folder.absolute()}


@contextmanager
def created_queue(settings: Settings) -> Iterator[Queue]:
    """The queue, its tables made or migrated."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    create_tables(settings.resolved_database_url)
    with open_queue(settings) as queue:
        yield queue
