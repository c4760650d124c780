"""Supervisor: one worker process per GPU, or one on the CPU, each kept alive by its keeper; and what it counts."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from server.bulletin import Bulletin
from server.metrics import SupervisorMetrics
from server.queue.queue import Queue
from server.settings import Settings
from server.supervisor.keeper import Keeper, Place

PROBE_TIMEOUT_S = 120


class DeviceError(Exception):
    """The device asked for is not there; the message says what is."""


def probe() -> dict[str, Any]:
    """What `python -m pipelines.probe` reports; it runs apart because it loads torch. Raises DeviceError."""
    command = [sys.executable, "-m", "pipelines.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True)
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise DeviceError(
            f"the GPUs cannot be looked for ({error}): run `python -m pipelines.probe` by hand"
        ) from error


def places_of(settings: Settings, look: Callable[[], dict[str, Any]] = probe) -> list[Place]:
    """One place per GPU for the device ``cuda``; else, or if `workers` says so, that many.

    Args:
        look: tells what GPUs are there, as `probe` does.

    Raises:
        DeviceError: CUDA is asked for and torch sees no GPU, or fewer than `workers`. Never a fallback to the CPU.
    """
    host = settings.worker_name or socket.gethostname()
    if settings.resolved_device != "cuda":
        return [Place(f"{host}:{index}") for index in range(settings.workers or 1)]
    gpus = look().get("gpus", [])
    count = settings.workers or len(gpus)
    if not gpus or count > len(gpus):
        wanted = f"{count} GPUs" if gpus else "a GPU"
        raise DeviceError(
            f"{wanted} asked for (device cuda), but torch sees {len(gpus)}: run `veraicon doctor` for the cause, or "
            "look at the program without one: `veraicon serve --weights tiny`"
        )
    if len(gpus) == 1:
        return [Place(f"{host}:0")]
    return [Place(f"{host}:{gpu['index']}", {"CUDA_VISIBLE_DEVICES": gpu["uuid"]}) for gpu in gpus[:count]]


def supervise(settings: Settings, queue: Queue, places: Sequence[Place], stop: threading.Event) -> None:
    """Keep one worker alive at each place until `stop`; return when all have left."""
    metrics = SupervisorMetrics()
    name = f"{settings.worker_name or socket.gethostname()}:supervisor"
    bulletin = Bulletin(queue.measures, name, metrics.samples, settings.heartbeat_s)
    keepers = [Keeper(settings, queue, place, stop, metrics) for place in places]
    threads = [threading.Thread(target=keeper.keep, name=keeper.place.name) for keeper in keepers]
    for place, thread in zip(places, threads, strict=True):
        metrics.quarantined.labels(place.name).set(False)
        thread.start()
    bulletin.post()
    while not stop.wait(settings.heartbeat_s):
        bulletin.post()
    for thread in threads:
        thread.join()
    bulletin.withdraw()
