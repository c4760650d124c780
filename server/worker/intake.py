"""Intake: claims jobs, fetches their pictures, each job by itself, and prepares them, one after another."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial

import structlog

from server.worker.assignment import Assignment
from server.worker.lineup import Lineup
from server.worker.pulse import Pulse
from server.worker.stages import Stages

LOOK_S = 0.02


@dataclass(frozen=True)
class Intake:
    """A job that cannot be prepared ends at once.

    Args:
        leaving: set when no more jobs are taken.
        preparing: one thread, because faces are found by networks that each take all cores.
        claim: takes at most so many jobs from the queue. fail: ends a job.
    """

    stages: Stages
    lineup: Lineup
    pulse: Pulse
    leaving: threading.Event
    preparing: ThreadPoolExecutor
    claim: Callable[[int], Sequence[Assignment]]
    fail: Callable[[Assignment, Exception], None]

    def take_in(self) -> bool:
        """Claim jobs and start on them, once there is room. Returns whether there were any."""
        claimed = self.claim(room) if (room := self.lineup.room()) else []
        for assignment in claimed:
            self.pulse.hold(assignment)
            self.lineup.enter(assignment)
            if assignment.suspect:
                self._run_alone(assignment)
            else:
                self._start(assignment)
        return bool(claimed)

    def _start(self, assignment: Assignment) -> None:
        # A daemon: a picture that does not come must not keep a process that wants to leave.
        fetching = partial(copy_context().run, self._fetch, assignment)
        self.lineup.fetch_begins()
        threading.Thread(target=fetching, name="fetch", daemon=True).start()

    def _run_alone(self, suspect: Assignment) -> None:
        """Nothing else is in hand from its first byte to its end: if it takes this process down, it goes alone."""
        while self.pulse.in_hand != [suspect]:
            if suspect.stop or self.leaving.wait(LOOK_S):  # its end is on the way
                return
        self._start(suspect)
        while suspect in self.pulse.in_hand and not self.leaving.wait(LOOK_S):
            continue

    def _fetch(self, assignment: Assignment) -> None:
        with structlog.contextvars.bound_contextvars(request_id=assignment.job.id):
            try:
                try:
                    self.stages.fetch(assignment)
                finally:
                    self.lineup.fetch_ends()
            except Exception as error:
                self._give_up(assignment, error)
            else:
                self.lineup.fetched(assignment)
                self.preparing.submit(self._prepare, assignment)

    def _prepare(self, assignment: Assignment) -> None:
        if assignment.stop:  # its end is on the way
            return
        with structlog.contextvars.bound_contextvars(request_id=assignment.job.id):
            try:
                self.stages.prepare(assignment)
            except Exception as error:
                self._give_up(assignment, error)
            else:
                self.lineup.ready(assignment)

    def _give_up(self, assignment: Assignment, error: Exception) -> None:
        if self.lineup.withdraw(assignment):
            self.fail(assignment, error)
