"""Keeper: keeps the worker of one place alive, rescues its jobs, and leaves the place alone while its GPU fails."""

import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.exits import EXIT_CANNOT_LOAD, EXIT_CANNOT_START, meaning
from server.metrics import SupervisorMetrics
from server.queue.job import Condition, WorkerState
from server.queue.queue import Queue
from server.settings import Settings, child_environment
from server.supervisor.child import Child
from server.supervisor.restarts import End, Record
from server.supervisor.vigil import Vigil

GRACE_S = 15
"""Beyond drain_s, before a worker that does not leave is killed."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Place:
    """Where one worker runs, the same after a restart."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Keeper:
    """Keeps one place's worker alive until `stop`."""

    settings: Settings
    queue: Queue
    place: Place
    stop: threading.Event
    metrics: SupervisorMetrics

    def keep(self) -> None:
        record = Record()
        with Child(self.stop, self.settings.drain_s + GRACE_S, self.settings.heartbeat_s) as child:
            while not self.stop.is_set():
                run_id, began, began_at = f"{self.place.name}:{uuid.uuid4()}", time.monotonic(), time.time()
                exit_code = self.run(child, run_id)
                if exit_code is None:
                    break
                end = self.judged(End(exit_code, time.monotonic() - began), run_id, began_at)
                self.rescue(run_id)
                if not self.stop.is_set():
                    record = record.after(end)
                    self.leave_alone(record, end)
        self.forget()

    def run(self, child: Child, run_id: str) -> int | None:
        """See Child.run; a worker that cannot be started is one that ended, and is tried again as those are."""
        try:
            return child.run(partial(self.start, run_id), Vigil(self.queue, self.place.name).over)
        except OSError as error:
            log.error("the worker's process cannot be started", worker=self.place.name, error=str(error))
            return EXIT_CANNOT_START

    def start(self, run_id: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "server.worker", "--supervised", "--name", self.place.name, "--id", run_id]
        environment = child_environment(self.settings, **self.place.environment)
        # Its standard input ends when this process does, even by kill -9: no orphan keeps the GPU.
        # A session of its own: Ctrl+C is for this process, which then stops the others.
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)

    def judged(self, end: End, run_id: str, began_at: float) -> End:
        """`end`, with what the queue knows of that run; without it while the queue does not answer."""
        try:
            deeds = self.queue.runs.deeds(run_id, began_at)
        except SQLAlchemyError as error:
            log.warning("the queue does not answer", worker=self.place.name, error=type(error).__name__)
            return end
        return replace(end, did_well=deeds.did_well, held=deeds.held)

    def rescue(self, run_id: str) -> None:
        """Give the dead worker's jobs away at once, without waiting for their leases."""
        try:
            rescued = self.queue.rescue(run_id)
        except SQLAlchemyError as error:
            log.warning("jobs are left to their leases", worker=self.place.name, error=type(error).__name__)
        else:
            if rescued:
                log.warning("jobs rescued", worker=self.place.name, count=rescued)

    def leave_alone(self, record: Record, end: End) -> None:
        """Wait until the next start, and say in the roster and in the metrics why there is no worker meanwhile."""
        settings, name = self.settings, self.place.name
        pause_s = record.pause_s(settings.quarantine_after, settings.quarantine_s)
        quarantined = record.failures >= settings.quarantine_after
        self.metrics.restarts.labels(name, str(end.exit_code)).inc()
        self.metrics.quarantined.labels(name).set(quarantined)
        say = log.error if record.failures else log.info
        say("worker ended", worker=name, exit_code=end.exit_code, restart_in_s=pause_s, quarantined=quarantined)
        if pause_s:
            state: Condition = "quarantined" if quarantined else "failed"
            self.explain(state, self.reason(record, end, pause_s, quarantined), pause_s)
        self.metrics.quarantined.labels(name).set(False)

    def reason(self, record: Record, end: End, pause_s: float, quarantined: bool) -> str:
        told = self.told() if end.exit_code == EXIT_CANNOT_LOAD else None
        if not quarantined:
            why = f"the worker ended with {meaning(end.exit_code)}"
            return told or f"{why}; it is started again, the server's log has the cause"
        until = datetime.fromtimestamp(time.time() + pause_s, UTC).strftime("%H:%M:%S UTC")
        times = f"{record.failures} failures in a row" if record.failures > 1 else "a failure"
        last = f"the last one: {meaning(end.exit_code)}" + (f": {told}" if told else "")
        return f"left alone until {until} after {times}, {last}"

    def explain(self, state: Condition, message: str, pause_s: float) -> None:
        """Say in the roster why there is no worker, for as long as there is none."""
        said = WorkerState(self.place.name, socket.gethostname(), self.settings.resolved_device, state, message, 0)
        until = time.monotonic() + pause_s
        while not self.stop.is_set() and (left := until - time.monotonic()) > 0:
            self.publish(said)
            self.stop.wait(min(self.settings.heartbeat_s, left))

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
