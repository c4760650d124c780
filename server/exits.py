"""Exits: the codes that a worker's process ends with by itself, and what they mean in words."""

import signal

EXIT_REFRESH, EXIT_RECYCLE, EXIT_STUCK, EXIT_CANNOT_LOAD = 74, 75, 76, 78
MEANINGS = {
    EXIT_REFRESH: "its memory had grown, it wanted to be replaced",
    EXIT_RECYCLE: "the device was lost, or its memory did not suffice",
    EXIT_STUCK: "a request made no step any more",
    EXIT_CANNOT_LOAD: "a model cannot be loaded",
}


def meaning(exit_code: int) -> str:
    """An exit code in words, for logs and /ready; as subprocess has it, a negative one is a signal."""
    if exit_code < 0:
        return f"killed by {signal_name(-exit_code)}"
    return f"exit code {exit_code}" + (f": {MEANINGS[exit_code]}" if exit_code in MEANINGS else "")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
