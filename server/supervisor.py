"""Supervisor: one worker process per GPU, or one on the CPU: start, restart with backoff, rescue its jobs, stop."""

import json
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.queue.job import WorkerState
from server.queue.queue import Queue
from server.settings import Settings, child_environment

PROBE_TIMEOUT_S = 120
LOOK_S = 0.2
BACKOFF_S = (0.5, 1, 5, 15, 60)
LONG_LIFE_S = 60
"""A worker that lived this long failed for a new reason: the backoff starts again."""
GRACE_S = 15
"""Beyond drain_s, before a worker that does not leave is killed."""
EXIT_CANNOT_LOAD = 78

log = structlog.get_logger()


class DeviceError(Exception):
    """The device asked for is not there; the message says what is."""


@dataclass(frozen=True)
class Place:
    """Where one worker runs, the same after a restart."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)


def places_of(settings: Settings) -> list[Place]:
    """One place per GPU for the device ``cuda``; else, or if `workers` says so, that many.

    Raises:
        DeviceError: CUDA is asked for and torch sees no GPU, or fewer than `workers`. Never a fallback to the CPU.
    """
    host = socket.gethostname()
    if settings.resolved_device != "cuda":
        return [Place(f"{host}:{index}") for index in range(settings.workers or 1)]
    gpus = probe().get("gpus", [])
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


def supervise(settings: Settings, queue: Queue, places: Sequence[Place], stop: threading.Event) -> None:
    """Keep one worker alive at each place until `stop`; return when all have left."""
    threads = [threading.Thread(target=Keeper(settings, queue, place, stop).keep, name=place.name) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@dataclass(frozen=True)
class Keeper:
    """Keeps one place's worker alive."""

    settings: Settings
    queue: Queue
    place: Place
    stop: threading.Event

    def keep(self) -> None:
        failures = 0
        while not self.stop.is_set():
            began, run_id = time.monotonic(), f"{self.place.name}:{uuid.uuid4()}"
            exit_code = self.run_once(run_id)
            self.rescue(run_id)
            if self.stop.is_set():
                return
            failures = 0 if time.monotonic() - began > LONG_LIFE_S else failures
            pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            failures += 1
            log.error("worker ended", worker=self.place.name, exit_code=exit_code, restart_in_s=pause)
            self.explain(exit_code, pause)
        self.forget()

    def run_once(self, run_id: str) -> int:
        """Start a worker and wait for its end, or for `stop`. Returns its exit code."""
        command = [sys.executable, "-m", "server.worker", "--supervised", "--name", self.place.name, "--id", run_id]
        environment = child_environment(self.settings, **self.place.environment)
        # Its standard input ends when this process does, even by kill -9: no orphan keeps the GPU.
        # A session of its own: Ctrl+C is for this process, which then stops the others.
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True) as process:
            while not self.stop.is_set():
                try:
                    return process.wait(LOOK_S)
                except subprocess.TimeoutExpired:
                    continue
            process.terminate()
            try:
                return process.wait(self.settings.drain_s + GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()

    def rescue(self, run_id: str) -> None:
        """Give the dead worker's jobs away at once, without waiting for their leases."""
        try:
            rescued = self.queue.rescue(run_id)
        except SQLAlchemyError as error:
            log.warning("jobs are left to their leases", worker=self.place.name, error=type(error).__name__)
        else:
            if rescued:
                log.warning("jobs rescued", worker=self.place.name, count=rescued)

    def explain(self, exit_code: int, pause_s: float) -> None:
        """Say in the roster why there is no worker, for as long as there is none."""
        until = time.monotonic() + pause_s
        message = f"the worker ended with exit code {exit_code} and is started again; the server's log has the cause"
        told = self.told() if exit_code == EXIT_CANNOT_LOAD else None
        device = self.settings.resolved_device
        state = WorkerState(self.place.name, socket.gethostname(), device, "failed", told or message, 0)
        self.publish(state)
        while not self.stop.wait(min(1, max(0, until - time.monotonic()))) and time.monotonic() < until:
            self.publish(state)

    def told(self) -> str | None:
        """The last words of this place's worker."""
        try:
            return next((state.message for state in self.queue.workers() if state.name == self.place.name), None)
        except SQLAlchemyError:
            return None

    def publish(self, state: WorkerState) -> None:
        try:
            self.queue.publish_worker(state)
        except SQLAlchemyError as error:
            log.warning("the queue does not answer", worker=self.place.name, error=type(error).__name__)

    def forget(self) -> None:
        try:
            self.queue.forget_worker(self.place.name)
        except SQLAlchemyError as error:
            log.warning("the queue does not answer", worker=self.place.name, error=type(error).__name__)
