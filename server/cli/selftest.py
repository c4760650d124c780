"""selftest: one photo through every endpoint, on this machine and its weights."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from server import selftest
from server.checks import weights_findings
from server.cli.doctor import show
from server.cli.options import DataDir, Device, Weights
from server.cli.screen import console
from server.imports import opened
from server.settings import read_settings
from server.supervisor.supervisor import places_of

app = typer.Typer()


@app.command("selftest")
def run(
    out: Annotated[Path, typer.Option(help="Folder for the report and the pictures.")] = Path("selftest"),
    data_dir: DataDir = None,
    weights: Weights = None,
    device: Device = None,
) -> None:
    """Send one photo through every endpoint, judge the pictures, write a report. Exit status 1 if one fails."""
    settings = read_settings(data_dir=data_dir, weights=weights, device=device)
    places_of(settings)
    catalog = opened(settings.catalog)
    lacking = [finding for finding in weights_findings(settings, catalog) if finding.level == "stop"]
    for finding in lacking:
        show(finding)
    if lacking:
        raise typer.Exit(1)
    steps = 2 + 3 * len(catalog)
    facts = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=steps)
        for fact in selftest.run(settings, out):
            facts.append(fact)
            progress.update(task, advance=1, description=f"{fact.get('endpoint', '')} {fact['fact']}")
    findings = selftest.judged(facts, tiny=settings.weights == "tiny")
    for finding in findings:
        show(finding)
    (out / "report.md").write_text(selftest.report(facts, findings, settings))
    console.print(f"Report and pictures: {out.absolute()}")
    raise typer.Exit(int(any(finding.level == "stop" for finding in findings)))
