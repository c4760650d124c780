"""Patience with a network: what may work later is tried again, each time after a longer while."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from weights.manifest import WeightsError

Result = TypeVar("Result")

LATER = (408, 425, 429)
"""HTTP status that ask for another attempt, besides 5xx."""

ATTEMPTS = 6
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0


class Passing(Exception):
    """An attempt failed in a way that may pass.

    Args:
        wait_s: as the other side asked (Retry-After), else None.
        progress: something was gained before it failed, so that it does not count.
    """

    def __init__(self, message: str, wait_s: float | None = None, progress: bool = False) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.progress = progress


def patiently(act: Callable[[], Result]) -> Result:
    """What `act` returns, tried again while it raises Passing. Raises WeightsError after ATTEMPTS without progress."""
    failed = 0
    while True:
        try:
            return act()
        except Passing as error:
            failed = 1 if error.progress else failed + 1
            if failed >= ATTEMPTS:
                raise WeightsError(
                    f"{error}, {ATTEMPTS} times. What has arrived is kept: run the same command again later"
                ) from error
            time.sleep(wait_s(error, failed))


def wait_s(error: Passing, failed: int) -> float:
    """Doubling, a little by chance so that parallel downloads do not knock together; or as asked."""
    if error.wait_s is not None:
        return min(error.wait_s, LONGEST_WAIT_S)
    return min(FIRST_WAIT_S * 2 ** (failed - 1), LONGEST_WAIT_S) * random.uniform(0.8, 1.2)  # noqa: S311  no secret


def unreachable(address: str, error: Exception) -> Passing:
    """There was no answer, or the connection broke."""
    return Passing(f"{address} cannot be reached ({error or type(error).__name__}); check the network and its proxy")
