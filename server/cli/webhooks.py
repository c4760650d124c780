"""webhooks: what became of them, once more, and the key that signs them."""

from typing import Annotated

import typer

from server.cli.options import DataDir, created_queue
from server.cli.screen import console, day, show_table
from server.queue.deliveries import Delivery
from server.settings import read_settings
from server.signing import new_pem

HOUR_S = 3600

webhooks = typer.Typer(help="Webhooks: the log of deliveries, replays, the signing key.", no_args_is_help=True)


@webhooks.command("list")
def list_webhooks(
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed or were given up.")] = False,
    request: Annotated[str | None, typer.Option(help="Every try of this request's webhook.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List webhooks, newest first; the time of a try is when it began."""
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        sendings = queue.deliveries.sendings(failed=failed, job_id=request)
        tries = queue.deliveries.of(request) if request else []
    if request and not sendings:
        console.print(f"There is no webhook of the request {request} here; `veraicon webhooks list` shows all.")
        raise typer.Exit(1)
    rows = [(one.job_id, one.host, one.state, str(one.tries), answer(one.last)) for one in sendings]
    show_table(("request", "receiver", "state", "tries", "last answer"), rows)
    if tries:
        console.print()
        show_table(
            ("tried", "answer", "seconds"), [(day(one.tried_at), answer(one), f"{one.duration_s:.2f}") for one in tries]
        )


@webhooks.command("replay")
def replay_webhook(request: Annotated[str, typer.Argument(help="The request's id.")], data_dir: DataDir = None) -> None:
    """Send a request's webhook again: the same body, a fresh signature, all retries. The server sends it within 1 s."""
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        found = queue.deliveries.replay(request)
    if not found:
        console.print(f"There is no webhook of the request {request} here; `veraicon webhooks list` shows all.")
        raise typer.Exit(1)
    console.print(f"The webhook of {request} is sent again; `veraicon webhooks list --request {request}` shows how.")


@webhooks.command("rotate-key")
def rotate_key(
    announce_h: Annotated[
        float, typer.Option(min=0, help="Hours in which the new key is published before it signs.")
    ] = 0.0,
    overlap_h: Annotated[
        float, typer.Option(min=0, help="Hours in which the old key stays published after it signed last.")
    ] = 24.0,
    data_dir: DataDir = None,
) -> None:
    """Make a new signing key; receivers find both in /.well-known/jwks.json meanwhile. No restart is needed.

    Receivers may remember the published keys for 24 hours: `--announce-h 24` is the gentle way. For a key that leaked:
    `--overlap-h 0` withdraws the old one at once.
    """
    with created_queue(read_settings(data_dir=data_dir)) as queue:
        queue.vault.webhook_keys(new_pem)  # so that there is an old one, whatever was sent so far
        queue.vault.rotate_webhook_key(new_pem(), announce_h * HOUR_S, overlap_h * HOUR_S)
    begins = f"in {announce_h:g} h" if announce_h else "from now on"
    console.print(f"The new key signs {begins}; the old one is published for {overlap_h:g} h after that.")


def answer(delivery: Delivery | None) -> str:
    """What came of a try, in a few words."""
    if delivery is None:
        return ""
    return str(delivery.status) if delivery.status is not None else delivery.reason or ""
