"""doctor, settings: what this machine can do, and what can be set."""

from typing import Annotated

import typer

from server import doctor as examination
from server.checks import Finding
from server.cli.options import DataDir, Device, Weights, chosen_weights, created_queue
from server.cli.screen import console, show_table
from server.imports import opened
from server.settings import PREFIX, Settings, read_settings

app = typer.Typer()


@app.command()
def doctor(data_dir: DataDir = None, weights: Weights = None, device: Device = None) -> None:
    """Examine this machine; for every problem, say what to do. Exit status 1 if the server could not serve."""
    settings = read_settings(data_dir=data_dir, **chosen_weights(weights), device=device)
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
