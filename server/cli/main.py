"""The command `veraicon`: serve, or a part of it; keys, certificates, weights; and what to do about problems."""

import os
import sys
from typing import NoReturn

import typer

from server import serve as serving
from server.cli import bundle, doctor, dropin, keys, queue, requests, selftest, serve, tls, warm, webhooks, weights
from server.dropin.guide import DropinError
from server.files import FilesError
from server.imports import ImportStringError
from server.queue.keyring import KeyExists
from server.queue.store import StoreError
from server.selftest import SelfTestError
from server.settings import SettingsError
from server.supervisor.supervisor import DeviceError
from server.tls import TlsError
from weights.manifest import WeightsError

FORESEEN = (
    DeviceError,
    DropinError,
    FilesError,
    SettingsError,
    ImportStringError,
    KeyExists,
    SelfTestError,
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
for commands in (serve.app, doctor.app, selftest.app, warm.app, bundle.app, dropin.app):
    app.add_typer(commands)
app.add_typer(keys.keys, name="keys")
app.add_typer(queue.queue, name="queue")
app.add_typer(requests.requests, name="requests")
app.add_typer(tls.tls, name="tls")
app.add_typer(webhooks.webhooks, name="webhooks")
app.add_typer(weights.weights, name="weights")


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
