"""Restarts: how long the place of a worker that ended is left alone, told from how its runs ended so far.

Pure: no clock, no process. A failing GPU is left alone for long (quarantine), a poison job costs its place little.
"""

from dataclasses import dataclass, replace

from server.exits import EXIT_RECYCLE, EXIT_REFRESH, EXIT_STUCK, EXIT_TOO_LARGE, EXIT_UNFORESEEN

BACKOFF_S = (0.5, 1, 5, 15, 60)
LONG_LIFE_S = 60
"""A worker that lived this long failed for a new reason, unless its device failed: the count starts again."""


@dataclass(frozen=True)
class End:
    """How one run ended, unasked.

    Args:
        exit_code: as subprocess has it: a negative one is a signal.
        lived_s: from its start.
        did_well: whether it finished a job with a result.
        held: ids of the jobs that it had in its hands.
    """

    exit_code: int
    lived_s: float
    did_well: bool = False
    held: frozenset[str] = frozenset()

    @property
    def by_device(self) -> bool:
        return self.exit_code < 0 or self.exit_code in {EXIT_RECYCLE, EXIT_STUCK}


@dataclass(frozen=True)
class Record:
    """What a place remembers: `failures` in a row, and the jobs that were in hand at them (`blamed`).

    Args:
        at_once: whether the last end was none of them, so that the next start need not wait.
    """

    failures: int = 0
    blamed: frozenset[str] = frozenset()
    at_once: bool = False

    def after(self, end: End) -> "Record":
        """A job that was in hand at a failure before is the likelier cause, and no second failure of the device.

        Neither are requests that are too large, or that a bug answers: nobody shall take a GPU away with those.
        """
        if end.exit_code == EXIT_REFRESH:
            return Record()
        afresh = end.did_well or (end.lived_s > LONG_LIFE_S and not end.by_device)
        before = Record() if afresh else self
        if end.exit_code == EXIT_TOO_LARGE:
            return replace(before, at_once=True)
        if end.exit_code == EXIT_UNFORESEEN:
            return Record(max(before.failures, 1), before.blamed)
        known = bool(end.held) and end.held <= before.blamed
        return Record(before.failures + (not known), before.blamed | end.held)

    def pause_s(self, quarantine_after: int, quarantine_s: float) -> float:
        """Seconds until the next start."""
        if self.at_once or not self.failures:
            return 0
        if self.failures >= quarantine_after:
            return quarantine_s
        return BACKOFF_S[min(self.failures, len(BACKOFF_S)) - 1]
