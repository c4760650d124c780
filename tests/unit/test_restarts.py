"""How long a place is left alone: backoff, quarantine, and what is no failure of its GPU (docs/decisions/0042)."""

import signal

import pytest

from server.exits import (
    EXIT_CANNOT_LOAD,
    EXIT_RECYCLE,
    EXIT_REFRESH,
    EXIT_STUCK,
    EXIT_TOO_LARGE,
    EXIT_UNFORESEEN,
    meaning,
)
from server.supervisor.restarts import BACKOFF_S, End, Record

AFTER, QUARANTINE_S = 3, 600.0


def pauses(*ends: End) -> list[float]:
    record, found = Record(), []
    for end in ends:
        record = record.after(end)
        found.append(record.pause_s(AFTER, QUARANTINE_S))
    return found


@pytest.mark.parametrize("exit_code", [EXIT_RECYCLE, EXIT_STUCK, EXIT_CANNOT_LOAD, 1, -signal.SIGSEGV])
def test_failures_in_a_row_wait_longer_and_end_in_quarantine_and_each_try_after_it_goes_back(exit_code):
    end = End(exit_code, lived_s=5)
    assert pauses(*[end] * 5) == [BACKOFF_S[0], BACKOFF_S[1], QUARANTINE_S, QUARANTINE_S, QUARANTINE_S]


def test_a_job_done_well_begins_the_count_again():
    bad, good = End(EXIT_RECYCLE, 5), End(EXIT_RECYCLE, 5, did_well=True)
    assert pauses(bad, bad, good, bad, bad) == [0.5, 1, 0.5, 1, QUARANTINE_S]


def test_a_wanted_recycle_is_no_failure():
    """The memory of a worker that had grown: nothing is wrong with its GPU."""
    assert pauses(*[End(EXIT_REFRESH, 5)] * 10) == [0] * 10
    assert pauses(End(EXIT_RECYCLE, 5), End(EXIT_REFRESH, 5), End(EXIT_RECYCLE, 5)) == [0.5, 0, 0.5]


def test_requests_that_are_too_large_never_take_a_gpu_away():
    assert pauses(*[End(EXIT_TOO_LARGE, 5)] * 10) == [0] * 10
    assert pauses(End(EXIT_RECYCLE, 5), End(EXIT_RECYCLE, 5), End(EXIT_TOO_LARGE, 5), End(EXIT_RECYCLE, 5)) == [
        *BACKOFF_S[:2],
        0,
        QUARANTINE_S,
    ]


def test_unforeseen_errors_are_one_failure_at_most():
    """Three bad requests end a process; fifteen must not end the service."""
    assert pauses(*[End(EXIT_UNFORESEEN, 5)] * 10) == [BACKOFF_S[0]] * 10
    assert pauses(End(EXIT_RECYCLE, 5), End(EXIT_UNFORESEEN, 5), End(EXIT_RECYCLE, 5)) == [0.5, 0.5, 1]


def test_one_poison_job_is_one_failure_however_often_it_is_tried():
    poison = End(-signal.SIGSEGV, 5, held=frozenset({"poison"}))
    assert pauses(*[poison] * 6) == [0.5] * 6
    beside = End(-signal.SIGSEGV, 5, held=frozenset({"poison", "innocent"}))
    alone = End(-signal.SIGSEGV, 5, held=frozenset({"innocent"}))
    assert pauses(beside, poison, alone, beside) == [0.5] * 4


def test_different_jobs_that_fail_are_failures_of_the_gpu():
    ends = [End(EXIT_RECYCLE, 5, held=frozenset({name})) for name in "abc"]
    assert pauses(*ends)[-1] == QUARANTINE_S


def test_a_long_life_begins_the_count_again_unless_the_device_ended_it():
    """A GPU that fails at each job, on a quiet day, lives long between two failures."""
    assert pauses(*[End(1, lived_s=3600)] * 4) == [0.5] * 4
    assert pauses(*[End(EXIT_RECYCLE, lived_s=3600)] * 3)[-1] == QUARANTINE_S


def test_an_exit_code_is_told_in_words():
    assert (
        meaning(EXIT_RECYCLE)
        == "exit code 75: the device was lost, or gave nonsense for pictures, or the process broke"
    )
    assert meaning(-9) == "killed by SIGKILL"
    assert meaning(139) == "exit code 139"
