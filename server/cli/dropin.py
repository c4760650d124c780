"""dropin: what to tell a machine with fal clients, and what is still missing there."""

import inspect
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from server import serve as serving
from server.cli.options import DataDir
from server.dropin import check as checking
from server.dropin import guide
from server.hosts import is_loopback
from server.settings import Settings, read_settings

app = typer.Typer()


class Client(StrEnum):
    """The families of fal clients, as the guide names them."""

    JS, JS_OLD, PYTHON, PYTHON_OLD, CURL, BROWSER = tuple(guide.TITLES)


class Form(StrEnum):
    """What to print."""

    TEXT, HOSTS, DNS, ENV = "text", "hosts", "dns", "env"


@app.command()
def dropin(  # noqa: PLR0913 - one argument per option
    address: Annotated[str | None, typer.Option(help="The server's address, as clients reach it.")] = None,
    name: Annotated[str | None, typer.Option(help="The server's own host name, if it has one.")] = None,
    client: Annotated[Client | None, typer.Option(help="One family of clients; default all.")] = None,
    form: Annotated[Form, typer.Option("--format", help="text, hosts, dns (zone file) or env.")] = Form.TEXT,
    check: Annotated[
        bool, typer.Option("--check", help="Look what is missing on this, the client's, machine.")
    ] = False,
    script: Annotated[
        bool, typer.Option("--script", help="Print that check as one file for machines without us.")
    ] = False,
    port: Annotated[int, typer.Option(help="With --check: the server's port.")] = 443,
    data_dir: DataDir = None,
) -> None:
    """Let unchanged fal clients reach this server: names, certificates and variables, per client."""
    if script:
        typer.echo(inspect.getsource(checking), nl=False)
        return
    if check:
        look = checking.Look.here(client or "python", address, port)
        raise typer.Exit(checking.show(checking.examine(look)))
    settings = read_settings(data_dir=data_dir)
    server = guide.Server(guide.checked_address(address or own_address(settings)), name, authority(settings))
    clients = [client.value] if client else list(guide.TITLES)
    match form:
        case Form.TEXT:
            typer.echo(guide.text(server, clients))
        case Form.HOSTS:
            typer.echo(guide.hosts(server))
        case Form.DNS:
            typer.echo(guide.dns(server))
        case Form.ENV:
            for one in clients:
                typer.echo("\n".join([f"# {guide.TITLES[one]}", *guide.environment(server, one)]))


def own_address(settings: Settings) -> str | None:
    """The address that this server listens on, if it is one for others."""
    return None if is_loopback(settings.host) else settings.host


def authority(settings: Settings) -> Path | None:
    """What clients must trust; a certificate of the studio's own needs nothing from us."""
    return None if settings.tls_cert else (serving.tls_folder(settings) / "ca.pem").absolute()
