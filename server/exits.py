"""Exits: the codes that a worker's process ends with by itself, and what they mean in words."""

import signal

EXIT_CANNOT_START = 71
EXIT_REFRESH, EXIT_RECYCLE, EXIT_STUCK, EXIT_TOO_LARGE, EXIT_CANNOT_LOAD, EXIT_UNFORESEEN = 74, 75, 76, 77, 78, 79
MEANINGS = {
    EXIT_CANNOT_START: "its process could not be started",
    EXIT_REFRESH: "its memory had grown, it wanted to be replaced",
    EXIT_RECYCLE: "the device was lost, or gave nonsense for pictures, or the process broke",
    EXIT_STUCK: "a request made no step any more",
    EXIT_TOO_LARGE: "a request was too large for the device, whose memory it wants back",
    EXIT_CANNOT_LOAD: "a model cannot be loaded",
    EXIT_UNFORESEEN: "several requests in a row ended with an unforeseen error",
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
