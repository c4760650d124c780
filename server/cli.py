"""The command `veraicon`: serve, or a part of it; keys, certificates, weights; and what to do about problems."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from server import doctor as examination
from server import serve as serving
from server.auth import key_hash, new_key
from server.checks import Finding
from server.files import FilesError
from server.imports import ImportStringError, opened
from server.queue.keyring import KeyExists
from server.queue.migrations import create_tables
from server.queue.opening import open_queue
from server.queue.queue import Queue
from server.queue.store import StoreError
from server.settings import PREFIX, Settings, SettingsError, read_settings
from server.supervisor import DeviceError
from server.tls import TlsError, expiry, issue, names_of
from weights.licences import table
from weights.manifest import Checkpoint, WeightsError, read_manifest, select
from weights.store import missing

FORESEEN = (
    DeviceError,
    FilesError,
    SettingsError,
    ImportStringError,
    KeyExists,
    StoreError,
    TlsError,
    WeightsError,
    serving.CannotServe,
)
"""Errors whose message says what to do: shown without a traceback."""

app = typer.Typer(
    help="Veraicon: identity-preserving portraits on your own GPUs, behind fal's API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show the values of variables
)
keys = typer.Typer(help="API keys: random, shown once, kept only as a hash.", no_args_is_help=True)
tls = typer.Typer(help="TLS for fal's host names, from a private authority.", no_args_is_help=True)
weights = typer.Typer(help="The checkpoints.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(tls, name="tls")
app.add_typer(weights, name="weights")

DataDir = Annotated[Path | None, typer.Option(help="Where queue, pictures and keys live. [VERAICON_DATA_DIR]")]
Weights = Annotated[str | None, typer.Option(help="full, or tiny: no download, pictures are noise. [VERAICON_WEIGHTS]")]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:N or cpu. [VERAICON_DEVICE]")]
Host = Annotated[str | None, typer.Option(help="Address to listen on. [VERAICON_HOST]")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [VERAICON_PORT]")]
Tls = Annotated[bool, typer.Option("--tls/--no-tls", help="HTTPS, with a certificate issued in DATA_DIR/tls.")]

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def main() -> None:
    """Entry point. Exit status 1 with one clear message for what was foreseen."""
    os.umask(0o077)  # the queue holds prompts, the file store faces: nobody else on this machine may read them
    try:
        app()
    except FORESEEN as error:
        leave_with(str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        leave_with(f"{place}{error.strerror or error}. Check the path and who may use it, or choose another --data-dir")


def leave_with(message: str) -> NoReturn:
    """One clear message on standard error, exit status 1."""
    typer.echo(f"veraicon: {message}", err=True)
    sys.exit(1)


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    weights: Weights = None,
    device: Device = None,
    tls: Tls = False,
) -> None:
    """Serve on this host: the HTTP process and one worker per GPU (or one on the CPU)."""
    settings = read_settings(host=host, port=port, data_dir=data_dir, weights=weights, device=device)
    serving.serve(settings, tls=tls, say=console.print)


@app.command()
def api(host: Host = None, port: Port = None, data_dir: DataDir = None, tls: Tls = False) -> None:
    """Serve HTTP only; workers run elsewhere on the same database and file store."""
    serving.serve_api(read_settings(host=host, port=port, data_dir=data_dir), tls=tls, say=console.print)


@app.command()
def worker(data_dir: DataDir = None, weights: Weights = None, device: Device = None) -> None:
    """Run jobs only: the workers of this host, for an API that runs elsewhere."""
    serving.serve_workers(read_settings(data_dir=data_dir, weights=weights, device=device), say=console.print)


@app.command()
def doctor(data_dir: DataDir = None, weights: Weights = None, device: Device = None) -> None:
    """Examine this machine; for every problem, say what to do. Exit status 1 if the server could not serve."""
    settings = read_settings(data_dir=data_dir, weights=weights, device=device)
    with created_queue(settings) as queue:
        findings = examination.examine(settings, opened(settings.catalog), queue)
    for finding in findings:
        show(finding)
    raise typer.Exit(int(any(finding.level == "stop" for finding in findings)))


def show(finding: Finding) -> None:
    mark, style = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "stop": ("STOP", "red")}[finding.level]
    console.print(mark, style=style, end=" ")
    console.print(f"{finding.name}: {finding.message}")
    if finding.remedy:
        console.print(f"     -> {finding.remedy}")


@app.command()
def settings(markdown: Annotated[bool, typer.Option(help="Print docs/settings.md.")] = False) -> None:
    """List every setting: its environment variable, default and meaning."""
    rows = [
        (PREFIX + name.upper(), "" if field.default is None else str(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    if markdown:
        for line in ("# Settings", "", "| variable | default | meaning |", "|---|---|---|"):
            typer.echo(line)
        for name, default, meaning in rows:
            typer.echo(f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |")
        return
    show_table(("variable", "default", "meaning"), rows)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is: requests made with it belong to this name.")],
    data_dir: DataDir = None,
) -> None:
    """Make a key and show it, once."""
    if not name.strip() or not name.isprintable():
        raise typer.BadParameter("the name must be printable, and not empty")
    key = new_key()
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        queue.add_key(name, key_hash(key))
    console.print(f"Key of {name}, shown only now; give it to the client as FAL_KEY:")
    typer.echo(key)


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List the names that have a key."""
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        found = queue.list_keys()
    rows = [(key.name, day(key.created_at), day(key.revoked_at) if key.revoked_at else "") for key in found]
    show_table(("name", "created", "revoked"), rows)


@keys.command("revoke")
def revoke_key(name: str, data_dir: DataDir = None) -> None:
    """Make a key worthless from now on."""
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        revoked = queue.revoke_key(name)
    if not revoked:
        console.print(f"There is no key of {name} in force; `veraicon keys list` shows all.")
        raise typer.Exit(1)
    console.print(f"The key of {name} is revoked.")


@tls.command("issue")
def issue_certificate(
    name: Annotated[list[str] | None, typer.Option(help="Further host name or IP address; repeat as needed.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Issue the certificate (again) from the private authority, which stays the same."""
    files = issue(serving.tls_folder(read_settings(data_dir=data_dir)), name or [])
    console.print(f"Certificate: {files.certificate}, valid until {expiry(files.certificate):%Y-%m-%d}")
    console.print(f"for {', '.join(names_of(files.certificate))}")
    console.print(f"Clients must trust {files.authority.absolute()}:")
    console.print(f"  Node:   NODE_EXTRA_CA_CERTS={files.authority.absolute()}")
    console.print(f"  Python: SSL_CERT_FILE={files.authority.absolute()}")
    console.print("and their DNS (or hosts file) must lead fal's names to this server. Next: `veraicon serve --tls`")


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


@contextmanager
def created_queue(settings: Settings) -> Iterator[Queue]:
    """The queue, its tables made or migrated."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    create_tables(settings.resolved_database_url)
    with open_queue(settings) as queue:
        yield queue


def day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def show_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    shown = Table(*head, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


if __name__ == "__main__":
    main()
