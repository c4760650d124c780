"""Door: how clients reach a site while parts of it are down: ask the next address, and again, until it answers."""

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.wire import Answer, Wire

TIMEOUT_S = 15.0
AGAIN_S = 0.2


class GaveUp(Exception):
    """The site did not answer before the client's patience ended; the message says what came last."""


class Weather:
    """What clients had to put up with. Safe to share between threads."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.longest_s = 0.0
        self._lock = threading.Lock()

    def note(self, failures: Counter[str], lasted_s: float) -> None:
        """One request that was answered, or given up, after these failures."""
        with self._lock:
            self.failures += failures
            self.longest_s = max(self.longest_s, lasted_s)


class Door:
    """The addresses (``host:port``) of one site, used in turn as a load balancer would.

    Args:
        gives_up_at: monotonic time after which nothing is asked again.
    """

    def __init__(self, addresses: Sequence[str], weather: Weather, gives_up_at: float) -> None:
        self.weather, self.gives_up_at = weather, gives_up_at
        self._addresses, self._turn = itertools.cycle(addresses), threading.Lock()

    def close(self) -> None:
        """From now on nothing is asked again: whoever waits gives up."""
        self.gives_up_at = 0.0

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Ask until the answer is none of the server's own troubles (5xx). `options`: of tests.wire.Wire.ask.

        Raises:
            GaveUp: patience ended.
        """
        failures, since = Counter[str](), time.monotonic()
        try:
            while True:
                answer, failure = self._try(method, path, body, options)
                if answer and answer.status < 500:
                    return answer
                failures[failure] += 1
                if time.monotonic() > self.gives_up_at:
                    raise GaveUp(f"{method} {path.partition('?')[0]} was given up after {failure}")
                time.sleep(AGAIN_S)
        finally:
            self.weather.note(failures, time.monotonic() - since if failures else 0.0)

    def _try(self, method: str, path: str, body: Any, options: dict[str, Any]) -> tuple[Answer | None, str]:
        """The answer if there was one, and what to call it when it is a failure."""
        with self._turn:
            address = next(self._addresses)
        try:
            answer = Wire(address).ask(method, path, body, timeout_s=TIMEOUT_S, **options)
        except (OSError, http.client.HTTPException) as error:
            return None, type(error).__name__
        return answer, str(answer.status)
