"""Worker: the process that runs jobs. While one is generated, the next one is prepared and the one before saved."""

import argparse
import os
import queue as handover
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pipelines.endpoint import Endpoint, Picture, Pipeline
from pipelines.errors import Cancelled, DeviceLost, LoadError, OutOfMemory, PipelineError
from pipelines.profile import Profile
from pipelines.shelf import Shelf
from server.assignment import Assignment
from server.files import FileStore
from server.imports import ImportStringError, opened
from server.logs import configure_logs
from server.pulse import Pulse
from server.queue.job import Job, WorkerState
from server.queue.opening import open_queue
from server.queue.queue import Queue
from server.readahead import files_of, reading_ahead
from server.settings import Settings, read_settings
from server.stages import Stages
from weights.install import tiny_weights

PULSE_S = 0.2
IDLE_WORKERS_FIRST_S = 0.05
"""How long a busy worker waits before it takes a job ahead, so that another one without work gets it."""
IN_HAND = 2
"""One job generating and one prepared for it to go on with."""
GRACE_S = 5.0
"""After the drain: time for a step to end, before the process does."""
MAX_UNFORESEEN = 3
"""Unforeseen errors in a row after which the process is replaced: its device or its memory may be the cause."""

EXIT_RECYCLE, EXIT_STUCK, EXIT_CANNOT_LOAD = 75, 76, 78

log = structlog.get_logger()


def profile_of(settings: Settings) -> Profile:
    """How the pipelines run under these settings."""
    device, tiny = settings.resolved_device, settings.weights == "tiny"
    return Profile(
        device=device,
        dtype=settings.resolved_dtype,
        detector="haar" if tiny else "scrfd",
        max_side=settings.max_side_px,
        final_sigmas=settings.final_sigmas,
        tiny=tiny,
        graphs=settings.graphs and device != "cpu" and settings.networks_stay,
        compile=settings.compile and settings.networks_stay,
        compile_cache=settings.resolved_compile_cache_dir,
        branches=settings.branches,
        channels_last=device != "cpu",
        attention=settings.attention,
        memory=settings.memory_profile,
        identity_cache_mb=settings.identity_cache_mb,
        identity_cache_s=settings.identity_cache_s,
        prepared=not tiny,
    )


def weights_root(settings: Settings) -> Path:
    """The folder that holds one folder per endpoint."""
    return tiny_weights(settings.weights_dir) if settings.weights == "tiny" else settings.resolved_weights_dir


class Worker:
    """One process's work, on three threads beside the main one, which only beats.

    Args:
        name: the worker's place, the same after a restart; `id` names this run of it and is the fencing token.
    """

    def __init__(self, settings: Settings, queue: Queue, catalog: Sequence[Endpoint], name: str, id: str) -> None:
        self.settings, self.queue, self.name, self.id = settings, queue, name, id
        self.catalog = {endpoint.id: endpoint for endpoint in catalog}
        self.pipelines: dict[str, Pipeline] = {}
        self.stages = Stages(settings, queue, FileStore(settings.resolved_files_url), self.pipelines)
        self.pulse = Pulse(queue, settings.heartbeat_s)
        self.leaving, self.loaded = threading.Event(), threading.Event()
        self.exit_code, self.unforeseen, self.alone = 0, 0, False
        self._left_at = 0.0
        self._room, self._ready = threading.Semaphore(IN_HAND), handover.SimpleQueue[Assignment | None]()
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="save")

    def leave(self, exit_code: int = 0) -> None:
        """Take no more jobs; `run` returns when those in hand are done, or given back after drain_s."""
        if not self.leaving.is_set():
            self.exit_code, self._left_at = exit_code, time.monotonic()
            self.leaving.set()

    def run(self) -> int:
        """Work until `leave`. Returns the process's exit code."""
        self.publish("loading", "loading the models")
        threads = [threading.Thread(target=target, daemon=True) for target in (self._load_and_generate, self._prepare)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or self.pulse.in_hand:
            if self.pulse.beat() and not self.leaving.is_set():
                self.publish(*self._state())
            self._end_cancelled()
            self._watch()
            time.sleep(PULSE_S) if self.leaving.is_set() else self.leaving.wait(PULSE_S)
        if self.exit_code != EXIT_CANNOT_LOAD:
            self.queue.forget_worker(self.name)
        return self.exit_code

    def publish(self, state: Literal["loading", "ready", "failed"], message: str) -> None:
        device = self.settings.resolved_device
        try:
            self.queue.publish_worker(WorkerState(self.name, socket.gethostname(), device, state, message, 0))
            self.alone = len(self.queue.workers()) < 2
        except SQLAlchemyError as error:  # readiness shows it: a worker that says nothing counts as gone
            log.warning("the queue does not answer", error=type(error).__name__)

    def _state(self) -> tuple[Literal["loading", "ready"], str]:
        if self.loaded.is_set():
            return "ready", f"offers {', '.join(self.catalog)}"
        return "loading", f"loading the models, {len(self.pipelines)} of {len(self.catalog)} done"

    # Thread: load, then generate

    def _load_and_generate(self) -> None:
        try:
            self._load()
        except Exception as error:
            foreseen = isinstance(error, LoadError | ImportStringError)  # their messages say what to do
            log.error("a model cannot be loaded", error=str(error), exc_info=None if foreseen else error)
            self.publish("failed", str(error))
            self.leave(EXIT_CANNOT_LOAD)
            return
        finally:
            self.loaded.set()
        self.publish(*self._state())
        while (assignment := self._ready.get()) is not None:
            self._generate(assignment)
            self._room.release()
        self._saver.shutdown()

    def _load(self) -> None:
        profile, root, shelf = profile_of(self.settings), weights_root(self.settings), Shelf()
        with reading_ahead(files_of(self.catalog.values(), self.settings, root)):
            for endpoint in self.catalog.values():
                began = time.monotonic()
                self.pipelines[endpoint.id] = opened(endpoint.pipeline).load(root / endpoint.folder, profile, shelf)
                log.info("model loaded", endpoint=endpoint.id, seconds=round(time.monotonic() - began, 2))

    def _generate(self, assignment: Assignment) -> None:
        if assignment.ended:
            return
        assignment.idle = False
        try:
            if self.leaving.is_set():
                assignment.stop = assignment.stop or "leaving"
            if assignment.stop:
                raise Cancelled("stopped before its first step")
            assignment.say("Generating")
            [pictures] = self.stages.generate([assignment])
        except Exception as error:
            self._end(assignment, error)
        else:
            self._saver.submit(self._save, assignment, pictures)

    def _save(self, assignment: Assignment, pictures: Sequence[Picture]) -> None:
        try:
            self.stages.save(assignment, pictures)
        except Exception as error:
            self._end(assignment, error)
        else:
            self.unforeseen = 0
            self.pulse.drop(assignment)

    # Thread: prepare the next job

    def _prepare(self) -> None:
        self.loaded.wait()
        for _ in self.queue.rings("work"):
            while self._prepare_next():
                continue
            if self.leaving.is_set():
                self._ready.put(None)
                return

    def _prepare_next(self) -> bool:
        """Claim and prepare one job. Returns whether there was one."""
        self._room.acquire()
        if self.pulse.in_hand and not self.alone:
            self.leaving.wait(IDLE_WORKERS_FIRST_S)
        claimed = [] if self.leaving.is_set() else self._claim()
        for job in claimed:
            assignment = Assignment(job, self.catalog[job.endpoint])
            self.pulse.hold(assignment)
            try:
                self.stages.prepare(assignment)
            except Exception as error:
                self._end(assignment, error)
                self._room.release()
            else:
                assignment.idle = True
                self._ready.put(assignment)
        if not claimed:
            self._room.release()
        return bool(claimed)

    def _claim(self) -> list[Job]:
        try:
            return self.queue.claim(self.id, list(self.catalog))
        except SQLAlchemyError as error:
            log.warning("the queue does not answer", error=type(error).__name__)
            return []

    # Any thread: how jobs and the process end

    def _end(self, assignment: Assignment, error: Exception) -> None:
        """End a failed job, and this process where the error says something about it."""
        if isinstance(error, DeviceLost):
            log.error("the device is lost", request_id=assignment.job.id, exc_info=error)
            self.leave(EXIT_RECYCLE)
        else:
            try:
                self.stages.fail(assignment, error)
            except SQLAlchemyError as trouble:
                log.warning("job left to its lease", request_id=assignment.job.id, error=type(trouble).__name__)
        if not isinstance(error, PipelineError):
            self.unforeseen += 1
        if isinstance(error, OutOfMemory) or self.unforeseen >= MAX_UNFORESEEN:
            self.leave(EXIT_RECYCLE)
        self.pulse.drop(assignment)

    def _end_cancelled(self) -> None:
        """A prepared job that its client gave up ends now, not when the running one is done."""
        for assignment in self.pulse.in_hand:
            if assignment.idle and assignment.stop == "cancelled":
                assignment.ended = True
                self._end(assignment, Cancelled("cancelled while it waited for its turn"))

    def _watch(self) -> None:
        """End what does not end by itself: a hanging job, a drain that takes too long, loading while leaving."""
        stuck = [one for one in self.pulse.in_hand if one.stuck(self.settings.job_timeout_s)]
        if stuck:
            log.error("no progress", request_ids=[one.job.id for one in stuck], after_s=self.settings.job_timeout_s)
            self._exit_now(EXIT_STUCK, [one for one in self.pulse.in_hand if one not in stuck])
        if not self.leaving.is_set():
            return
        overdue_s = time.monotonic() - self._left_at - self.settings.drain_s
        for assignment in self.pulse.in_hand:
            if overdue_s > 0:
                assignment.stop = assignment.stop or "leaving"
        if overdue_s > GRACE_S or not self.loaded.is_set():
            self._exit_now(self.exit_code, self.pulse.in_hand)

    def _exit_now(self, exit_code: int, give_back: Sequence[Assignment]) -> None:
        for assignment in give_back:
            self.queue.release(assignment.job)
        self.queue.forget_worker(self.name)
        os._exit(exit_code)  # threads that hang cannot be joined


def leave_with_supervisor(worker: Worker) -> None:
    """Wait for the end of standard input. Python's own buffer has a lock that would break its exit."""
    while os.read(sys.stdin.fileno(), 1):
        continue
    worker.leave()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker with the settings of the environment until SIGTERM, or until the supervisor is gone."""
    host = socket.gethostname()
    parser = argparse.ArgumentParser(prog="python -m server.worker", description=main.__doc__)
    parser.add_argument("--name", default=f"{host}:0", help="this worker's place, the same after a restart")
    parser.add_argument("--id", default=f"{host}:{uuid.uuid4()}", help="names this run; never used twice")
    parser.add_argument("--supervised", action="store_true", help="leave when standard input ends")
    options = parser.parse_args(arguments)
    settings = read_settings()
    configure_logs(settings)
    structlog.contextvars.bind_contextvars(worker=options.name)
    with open_queue(settings) as queue:
        worker = Worker(settings, queue, opened(settings.catalog), options.name, options.id)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.leave())
        if options.supervised:
            threading.Thread(target=leave_with_supervisor, args=(worker,), daemon=True).start()
        return worker.run()


if __name__ == "__main__":
    sys.exit(main())
