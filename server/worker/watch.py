"""Watch: ends what does not end by itself in a worker: a hanging job, a broken thread, a drain that takes too long."""

import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.exits import EXIT_RECYCLE, EXIT_STUCK
from server.worker.assignment import Assignment
from server.worker.departure import Departure
from server.worker.presence import Presence
from server.worker.pulse import Pulse

GRACE_S = 5.0
"""After the drain: time for a step to end, before the process does."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Watch:
    """For a thread that never computes.

    Args:
        job_timeout_s: a job without progress for this long hangs. drain_s: time for the jobs in hand when it leaves.
    """

    pulse: Pulse
    presence: Presence
    departure: Departure
    job_timeout_s: float
    drain_s: float

    def look(self, threads: Sequence[Future[None]], *, loaded: bool) -> None:
        """Does not return when the process has to end now."""
        broken = [thread.exception() for thread in threads if thread.done() and thread.exception()]
        if broken:
            log.critical("a thread of the worker broke", exc_info=broken[0])
            # One that had the device may be why: it burns an attempt, so that it cannot do this for ever.
            self.exit_now(EXIT_RECYCLE, [one for one in self.pulse.in_hand if one.stage != "taken"])
        stuck = [one for one in self.pulse.in_hand if one.stuck(self.job_timeout_s)]
        if stuck:
            log.error("no progress", request_ids=[one.job.id for one in stuck], after_s=self.job_timeout_s)
            self.exit_now(EXIT_STUCK, [one for one in self.pulse.in_hand if one not in stuck])
        if self.departure.decided.is_set():
            self._drain(loaded=loaded)

    def _drain(self, *, loaded: bool) -> None:
        overdue_s = self.departure.overdue_s(self.drain_s)
        for assignment in self.pulse.in_hand:
            if overdue_s > 0:
                assignment.stop = assignment.stop or "leaving"
        if overdue_s > GRACE_S or not loaded:
            self.exit_now(self.departure.exit_code, self.pulse.in_hand)

    def exit_now(self, exit_code: int, give_back: Sequence[Assignment]) -> None:
        """End the process, whatever its threads do: those that hang cannot be joined."""
        try:
            for assignment in give_back:
                self.presence.queue.release(assignment.job)
        except SQLAlchemyError as error:
            log.warning("jobs left to their leases", error=type(error).__name__)
        self.presence.forget()
        os._exit(exit_code)
