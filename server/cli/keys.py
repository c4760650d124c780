"""keys: API keys."""

from typing import Annotated

import typer

from server.auth import SCOPES, USUAL_SCOPES, key_hash, new_key
from server.cli.options import DataDir, created_queue
from server.cli.screen import console, day, show_table
from server.queue.job import Scope
from server.settings import read_settings

keys = typer.Typer(
    help="API keys: random, shown once, kept only as a hash. A request belongs to its key's name.", no_args_is_help=True
)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is: requests made with it belong to this name.")],
    scope: Annotated[
        list[str],
        typer.Option(
            help="What the key may do: run (submit, run, upload, cancel, delete its own requests), read (status, "
            "results, logs), admin (delete anybody's requests). May be repeated."
        ),
    ] = list(USUAL_SCOPES),  # noqa: B006 - typer copies it
    another: Annotated[
        bool, typer.Option("--another", help="One more key for a name that has one: both read all its requests.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and show it, once."""
    if not name.strip() or not name.isprintable():
        raise typer.BadParameter("the name must be printable, and not empty")
    key = new_key()
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        queue.keys.add(key.partition(":")[0], name, key_hash(key), known_scopes(scope), another=another)
    console.print(f"Key of {name}, shown only now; give it to the client as FAL_KEY:")
    typer.echo(key)


def known_scopes(words: list[str]) -> list[Scope]:
    """The scopes that these words name, each once. Raises typer.BadParameter for another word."""
    unknown = sorted(set(words).difference(SCOPES))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(SCOPES)}", param_hint="--scope")
    return [scope for scope in SCOPES if scope in words]


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List every key: its id, what it may do, when it was made, last used (to a minute) and revoked."""
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        found = queue.keys.every()
    head = ("id", "name", "scopes", "created", "last used", "revoked")
    show_table(
        head,
        [
            (key.id, key.name, " ".join(key.scopes), *map(moment, (key.created_at, key.used_at, key.revoked_at)))
            for key in found
        ],
    )


def moment(seconds: float | None) -> str:
    return day(seconds) if seconds is not None else ""


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(metavar="NAME|ID", help="A key's id, or a name: then all its keys.")],
    data_dir: DataDir = None,
) -> None:
    """Make a key worthless from now on."""
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        revoked = queue.keys.revoke(name)
    if not revoked:
        console.print(f"There is no key {name} in force; `veraicon keys list` shows all.")
        raise typer.Exit(1)
    console.print(f"The key of {name} is revoked." if revoked == 1 else f"{revoked} keys of {name} are revoked.")
