"""Bulletin: keeps one process's published measures fresh, and is no reason for that process to fail."""

import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.queue.measures import Measures

log = structlog.get_logger()


class Bulletin:
    """Posted from one thread.

    Args:
        process: the name that the samples carry.
        samples: what the process measured so far, whenever it is asked.
        every_s: how often to publish; less than a third of how long Measures shows what was published.
    """

    def __init__(
        self, measures: Measures, process: str, samples: Callable[[], list[dict[str, Any]]], every_s: float
    ) -> None:
        self._measures, self._process, self._samples, self._every_s = measures, process, samples, every_s
        self._due = 0.0

    def post(self) -> None:
        """Publish, if it is time to. While the queue does not answer, nothing is shown, which is true."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._every_s
        try:
            self._measures.publish(self._process, self._samples())
        except SQLAlchemyError as error:
            log.warning("the measures cannot be published", process=self._process, error=type(error).__name__)

    def withdraw(self) -> None:
        """The process leaves."""
        try:
            self._measures.forget(self._process)
        except SQLAlchemyError as error:
            log.warning("the measures stay until they are too old", process=self._process, error=type(error).__name__)
