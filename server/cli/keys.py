"""keys: API keys."""

from typing import Annotated

import typer

from server.auth import key_hash, new_key
from server.cli.options import DataDir, created_queue
from server.cli.screen import console, day, show_table
from server.settings import read_settings

keys = typer.Typer(help="API keys: random, shown once, kept only as a hash.", no_args_is_help=True)


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
