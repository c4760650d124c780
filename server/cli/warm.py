"""warm: compile the usual steps before anybody asks, on a machine with the card that will serve."""

import subprocess
import sys
from typing import Annotated

import typer

from server.cli.options import DataDir, Device, Weights
from server.cli.screen import console
from server.settings import child_environment, read_settings
from server.supervisor.supervisor import places_of
from server.worker.models import weights_root

app = typer.Typer()


@app.command()
def warm(
    size: Annotated[list[str] | None, typer.Option(help="WIDTHxHEIGHT; repeat as needed. Default: the usual.")] = None,
    data_dir: DataDir = None,
    weights: Weights = None,
    device: Device = None,
) -> None:
    """Compile steps and decoding into VERAICON_COMPILE_CACHE_DIR; copy that folder to equal machines."""
    settings = read_settings(data_dir=data_dir, weights=weights, device=device)
    places_of(settings)
    cache = settings.resolved_compile_cache_dir
    options = ["--cache", str(cache), "--device", settings.resolved_device, "--dtype", settings.resolved_dtype]
    sizes = [word for one in size or [] for word in ("--size", one)]
    program = [sys.executable, "-m", "pipelines.warm", str(weights_root(settings)), *options, *sizes]
    code = subprocess.run(program, env=child_environment(settings), check=False).returncode
    if code == 0:
        console.print(f"Compiled, in {cache}. A server on this data folder takes it with VERAICON_COMPILE=true.")
    raise typer.Exit(code)
