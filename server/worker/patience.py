"""Patience: what a full disk or an absent database hinders is tried again for a while, before it has failed."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

PAUSES_S = (0.5, 1, 2, 4, 8)
"""Between the tries; after the last one it has failed."""

Result = TypeVar("Result")

log = structlog.get_logger()


def patiently(action: Callable[[], Result], errors: type[Exception], trouble: str, **where: Any) -> Result:
    """What `action` returns, after as many tries as it takes; raises its last error.

    Args:
        errors: those that may pass. trouble / where: for the log, each time.
    """
    for pause in PAUSES_S:
        try:
            return action()
        except errors as error:
            log.warning(trouble, error=type(error).__name__, **where)
        time.sleep(pause)
    return action()
