"""Worker: the process that runs jobs. While some are generated, the next are prepared and the ones before saved."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pipelines.endpoint import Endpoint, Picture, Pipeline
from pipelines.errors import BadPicture, Cancelled, DeviceLost, LoadError, OutOfMemory, PipelineError
from server.exits import EXIT_CANNOT_LOAD, EXIT_RECYCLE, EXIT_REFRESH, EXIT_TOO_LARGE, EXIT_UNFORESEEN
from server.files import FileStore
from server.imports import ImportStringError
from server.metrics import WorkerMetrics
from server.queue.job import Condition
from server.queue.queue import Queue
from server.settings import Settings
from server.worker.assignment import Assignment
from server.worker.claimant import Claimant
from server.worker.departure import Departure
from server.worker.drift import Drift
from server.worker.generator import Generator, Outcome
from server.worker.intake import Intake
from server.worker.lineup import Lineup
from server.worker.models import loaded, memory_of_card, networks_come_and_go
from server.worker.presence import Presence
from server.worker.pulse import Pulse
from server.worker.stages import Stages
from server.worker.watch import Watch

PULSE_S = 0.2
IDLE_WORKERS_FIRST_S = 0.05
"""How long a busy worker waits before it takes jobs ahead, so that another one without work gets them."""
SAVES = 4
"""Jobs saved at once: measuring a picture's likeness takes about as long as a fast card takes for the next one."""
MOST_UNSAVED = 16
"""Jobs whose pictures may wait to be saved; the device waits rather than that there are more."""
MAX_UNFORESEEN = 3
"""Unforeseen errors in a row after which the process is replaced: its device or its memory may be the cause."""
GB = 1_000_000_000

log = structlog.get_logger()


class Worker:
    """One process's work. Its main thread only beats, and ends what must end.

    Args:
        name: the worker's place, the same after a restart; `id` names this run of it and is the fencing token.
    """

    def __init__(self, settings: Settings, queue: Queue, catalog: Sequence[Endpoint], name: str, id: str) -> None:
        self.settings, self.queue, self.name = settings, queue, name
        self.catalog = {endpoint.id: endpoint for endpoint in catalog}
        self.pipelines: dict[str, Pipeline] = {}
        self.metrics, self.departure, self.loaded = WorkerMetrics(), Departure(), threading.Event()
        self.pulse = Pulse(queue, settings.heartbeat_s)
        self.presence = Presence(queue, name, settings.resolved_device, self.metrics)
        self.watch = Watch(self.pulse, self.presence, self.departure, settings.job_timeout_s, settings.drain_s)
        self.lineup = Lineup(self.departure.decided, settings.max_batch, settings.batch_wait_ms / 1000)
        self.claimant = Claimant(queue, id, self.catalog, self.metrics, settings.warm_s)
        files = FileStore(settings.resolved_files_url)
        self.stages = Stages(settings, queue, files, self.pipelines, self.metrics)
        preparing, leaving = self._threads("prepare"), self.departure.decided
        self.intake = Intake(self.stages, self.lineup, self.pulse, leaving, preparing, self._claim, self._end)
        self.generator = Generator(self.pipelines, self.lineup, self.metrics)
        self.drift = Drift(round(settings.recycle_rss_gb * GB))
        self.unforeseen: tuple[type[Exception], ...] = ()
        self._saver, self._unsaved = self._threads("save", SAVES), threading.Semaphore(MOST_UNSAVED)

    def run(self) -> int:
        """Work until `departure` is decided and nothing is left in hand. Returns the process's exit code."""
        leaving = self.departure.decided
        self.presence.say("loading", "loading the models")
        threads = [self._threads("device").submit(self._use_device), self._threads("claim").submit(self._take_in)]
        while not all(thread.done() for thread in threads) or self.pulse.in_hand:
            self.presence.say(*self._state(), again=self.pulse.beat())
            self._clear_line()
            self.watch.look(threads, loaded=self.loaded.is_set())
            time.sleep(PULSE_S) if leaving.is_set() else leaving.wait(PULSE_S)
        if self.departure.exit_code != EXIT_CANNOT_LOAD:
            self.presence.forget()
        return self.departure.exit_code

    def _state(self) -> tuple[Condition, str]:
        if self.departure.decided.is_set():
            why = self.departure.why
            if self.departure.exit_code == EXIT_CANNOT_LOAD:
                return "failed", why
            return "loading", f"is being replaced: {why}" if why else "finishes its last jobs and leaves"
        if not self.loaded.is_set():
            return "loading", f"loading the models, {len(self.pipelines)} of {len(self.catalog)} done"
        for kind, size in memory_of_card(self.settings).items():
            self.metrics.card_memory.labels(kind).set(size)
        return "ready", f"offers {', '.join(self.catalog)}"

    def _threads(self, role: str, most: int = 1) -> ThreadPoolExecutor:
        """Threads whose log lines name the worker."""
        return ThreadPoolExecutor(most, role, partial(structlog.contextvars.bind_contextvars, worker=self.name))

    # Thread: load, then generate

    def _use_device(self) -> None:
        if not self._load():
            return
        self.presence.say(*self._state())
        while self._generate(self.lineup.take()):
            continue

    def _generate(self, batch: Sequence[Assignment]) -> bool:
        """False: nothing was given. Returns before the next is taken, so that nothing computed lives until then."""
        if not batch:
            return False
        for assignment, outcome in zip(batch, self.generator.generate(batch), strict=True):
            self._deliver(assignment, outcome)
        grown = self.drift.after(len(batch), batch[0].endpoint.id)
        if grown:
            why = f"its memory grew by {grown / GB:.2g} GB since its first jobs (recycle_rss_gb)"
            self._be_replaced(why, EXIT_REFRESH)
        return True

    def _load(self) -> bool:
        try:
            self.pipelines.update(loaded(self.settings, self.catalog.values()))
            self.claimant.stays = not networks_come_and_go(self.settings)
        except Exception as error:
            foreseen = isinstance(error, LoadError | ImportStringError)  # their messages say what to do
            log.error("a model cannot be loaded", error=str(error), exc_info=None if foreseen else error)
            self.loaded.set()  # first: who leaves before is killed by the watch, and says nothing
            self.departure.leave(EXIT_CANNOT_LOAD, str(error))
            self.presence.say(*self._state())
            return False
        self.loaded.set()
        return True

    def _deliver(self, assignment: Assignment, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self._end(assignment, outcome)
        elif assignment.settle():
            assignment.rest()
            self._unsaved.acquire()
            self._saver.submit(self._save, assignment, outcome)

    def _save(self, assignment: Assignment, pictures: Sequence[Picture]) -> None:
        with structlog.contextvars.bound_contextvars(request_id=assignment.job.id):
            try:
                self.stages.save(assignment, pictures)
            except Exception as error:
                self._fail(assignment, error)
            else:
                self.unforeseen = ()
                self.pulse.drop(assignment)
            finally:
                self._unsaved.release()

    # Thread: claim the next jobs

    def _take_in(self) -> None:
        self.loaded.wait()
        for _ in self.queue.rings("work"):
            while self.intake.take_in():
                continue
            if self.departure.decided.is_set():
                return

    def _claim(self, most: int) -> Sequence[Assignment]:
        leaving = self.departure.decided
        if self.lineup.occupied and not self.presence.alone:
            leaving.wait(IDLE_WORKERS_FIRST_S)
        return [] if leaving.is_set() else self.claimant.claim(most)

    # Any thread: how jobs end, and what that says about this process

    def _end(self, assignment: Assignment, error: Exception) -> None:
        """End a job without a result, unless it has one or was ended before."""
        if assignment.settle():
            self._fail(assignment, error)

    def _fail(self, assignment: Assignment, error: Exception) -> None:
        """A job on a lost device is left to whoever sees this process die, and so is one that cannot be told to end."""
        try:
            if isinstance(error, DeviceLost):
                log.error("the device is lost", request_id=assignment.job.id, exc_info=error)
            else:
                self.stages.fail(assignment, error)
        except SQLAlchemyError as trouble:
            log.warning("job left to its lease", request_id=assignment.job.id, error=type(trouble).__name__)
        finally:
            self._draw_conclusions(error)
            self.pulse.drop(assignment)

    def _draw_conclusions(self, error: Exception) -> None:
        blameless = PipelineError | SQLAlchemyError | OSError  # they say nothing about this process
        if isinstance(error, BadPicture) or not isinstance(error, blameless):
            self.unforeseen = *self.unforeseen, type(error)
        if isinstance(error, DeviceLost):
            self._be_replaced("the device answers no longer")
        elif isinstance(error, OutOfMemory):
            self.metrics.out_of_memory.labels("recycled").inc()
            self._be_replaced("the device's memory did not suffice for one job alone", EXIT_TOO_LARGE)
        elif len(self.unforeseen) >= MAX_UNFORESEEN:
            exit_code = EXIT_RECYCLE if BadPicture in self.unforeseen else EXIT_UNFORESEEN
            self._be_replaced(f"{len(self.unforeseen)} unforeseen errors in a row", exit_code)

    def _be_replaced(self, why: str, exit_code: int = EXIT_RECYCLE) -> None:
        log.warning("the worker is replaced", why=why)
        self.departure.leave(exit_code, why)

    def _clear_line(self) -> None:
        """Jobs that wait, or share the device, end when they should, and not when the running ones are done."""
        leaving = self.departure.decided.is_set()
        if leaving:
            self.lineup.wake()
        for assignment in self.pulse.in_hand:
            if leaving and assignment.stage != "taken":
                assignment.stop = assignment.stop or "leaving"
            waited = assignment.stop and self.lineup.withdraw(assignment)
            if waited or (assignment.stop == "cancelled" and assignment.shared):
                self._saver.submit(self._end, assignment, Cancelled("ended before its picture was done"))
