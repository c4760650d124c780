"""Vigil: notices a worker whose process is there and does nothing any more: it is stopped, or its main thread hangs."""

import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.queue.job import WorkerState
from server.queue.queue import Queue

MOST_MISSED = 5
"""Looks in a row, a beat apart, that find a worker silent for longer than its lease: then it does not come back."""
SLOW_WRITE_S = 0.5

log = structlog.get_logger()


class Vigil:
    """Over one run of the worker at the place `name`, from its start.

    It counts looks and not seconds: where everything was frozen for an hour, the worker gets time to speak, too.
    """

    def __init__(self, queue: Queue, name: str) -> None:
        self._queue, self._name = queue, name
        self._began, self._was_ready, self._missed = time.monotonic(), False, 0

    def over(self) -> bool:
        """To be asked once a beat: whether a worker that was ready is silent for good. False while none can speak."""
        try:
            heard = self._heard()
            self._was_ready |= bool(heard and heard.state == "ready")
            silent = self._was_ready and not heard and self._takes_writes()
        except SQLAlchemyError as error:
            log.warning("the queue does not answer", worker=self._name, error=type(error).__name__)
            silent = False
        self._missed = self._missed + 1 if silent else 0
        if self._missed < MOST_MISSED:
            return False
        log.error("the worker is silent for longer than its lease: it is killed", worker=self._name)
        return True

    def _takes_writes(self) -> bool:
        """Where a write fails, or waits for a lock, the worker could not speak either."""
        began = time.monotonic()
        self._queue.forget_worker(self._name)
        return time.monotonic() - began < SLOW_WRITE_S

    def _heard(self) -> WorkerState | None:
        """What it said last in this run, unless it was silent since for longer than its lease."""
        age_s = time.monotonic() - self._began
        said = (state for state in self._queue.workers() if state.name == self._name and state.age_s < age_s)
        return next(said, None)
