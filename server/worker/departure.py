"""Departure: whether a worker leaves, since when and why."""

import threading
import time


class Departure:
    """Decided once, by any thread.

    Attributes:
        decided: set as soon as no more jobs are taken.
        exit_code / why: of the process; `why` is empty when somebody else wants it to end.
    """

    def __init__(self) -> None:
        self.decided = threading.Event()
        self.exit_code, self.why = 0, ""
        self._at = 0.0
        self._first = threading.Lock()

    def leave(self, exit_code: int = 0, why: str = "") -> None:
        """Take no more jobs, and end when those in hand are done. Only the first call counts."""
        if self._first.acquire(blocking=False):  # never waits: a signal's handler may have interrupted this very line
            self.exit_code, self.why, self._at = exit_code, why, time.monotonic()
            self.decided.set()

    def overdue_s(self, drain_s: float) -> float:
        """Seconds for which it should have been over, with `drain_s` for the jobs in hand; negative before."""
        return time.monotonic() - self._at - drain_s if self.decided.is_set() else -drain_s
