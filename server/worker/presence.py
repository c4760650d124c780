"""Presence: what a worker tells about itself through the queue: its state, and what it measures."""

import socket

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.metrics import WorkerMetrics
from server.queue.job import Condition, WorkerState
from server.queue.queue import Queue
from server.worker.drift import resident_memory

log = structlog.get_logger()


class Presence:
    """Of the worker at the place `name`, which runs on `device`.

    Attributes:
        alone: whether it knew of no other worker when it last spoke.
    """

    def __init__(self, queue: Queue, name: str, device: str, metrics: WorkerMetrics) -> None:
        self.queue, self.name, self.device, self.metrics = queue, name, device, metrics
        self.alone = False
        self._said: tuple[Condition, str] | None = None

    def say(self, state: Condition, message: str, *, again: bool = True) -> None:
        """Tell how it is; what was said before only if `again`."""
        if not again and self._said == (state, message):
            return
        self._said = state, message
        self.metrics.worker_memory.set(resident_memory())
        try:
            self.queue.publish_worker(WorkerState(self.name, socket.gethostname(), self.device, state, message, 0))
            self.queue.measures.publish(self.name, self.metrics.samples())
            self.alone = len(self.queue.workers()) < 2
        except SQLAlchemyError as error:  # readiness shows it: a worker that says nothing counts as gone
            log.warning("the queue does not answer", error=type(error).__name__)

    def forget(self) -> None:
        """It is gone, and nobody need wait for it."""
        try:
            self.queue.forget_worker(self.name)
            self.queue.measures.forget(self.name)
        except SQLAlchemyError as error:  # its silence will tell
            log.warning("the queue does not answer", error=type(error).__name__)
