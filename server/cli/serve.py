"""serve, api, worker: run the server, or a part of it."""

import typer

from server import serve as serving
from server.cli.options import DataDir, Device, Host, Port, Tls, Weights, chosen_weights
from server.cli.screen import console
from server.settings import read_settings

app = typer.Typer()


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
    settings = read_settings(host=host, port=port, data_dir=data_dir, **chosen_weights(weights), device=device)
    serving.serve(settings, tls=tls, say=console.print)


@app.command()
def api(host: Host = None, port: Port = None, data_dir: DataDir = None, tls: Tls = False) -> None:
    """Serve HTTP only; workers run elsewhere on the same database and file store."""
    serving.serve_api(read_settings(host=host, port=port, data_dir=data_dir), tls=tls, say=console.print)


@app.command()
def worker(data_dir: DataDir = None, weights: Weights = None, device: Device = None) -> None:
    """Run jobs only: the workers of this host, for an API that runs elsewhere."""
    serving.serve_workers(read_settings(data_dir=data_dir, **chosen_weights(weights), device=device), say=console.print)
