"""Claimant: takes jobs from the queue for one run of a worker."""

import math
import time
from collections.abc import Mapping

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pipelines.endpoint import Endpoint
from server.metrics import WorkerMetrics
from server.queue.job import PRIORITIES
from server.queue.queue import Queue
from server.worker.assignment import Assignment

log = structlog.get_logger()


class Claimant:
    """For one thread.

    Args:
        worker: names this run of the worker, never used again.
        catalog: the endpoints that it offers, by id.
        warm_s: while networks come and go, how long another model's job may wait for the last one's jobs to be done;
            and how long a worker stays with a model that it has just changed to, whatever waits.

    Attributes:
        stays: whether all networks stay on the device, so that it does not matter which model is next.
    """

    def __init__(
        self, queue: Queue, worker: str, catalog: Mapping[str, Endpoint], metrics: WorkerMetrics, warm_s: float
    ) -> None:
        self.queue, self.worker, self.catalog, self.metrics, self.warm_s = queue, worker, catalog, metrics, warm_s
        self.stays = True
        self._last: str | None = None
        self._since = 0.0

    def claim(self, most: int) -> list[Assignment]:
        """At most so many jobs; none when there are none, or the queue does not answer."""
        warm = None if self.stays else self._last
        # In a long backlog every job is old: without a stay the models would change places with each of them.
        warm_s = math.inf if time.monotonic() - self._since < self.warm_s else self.warm_s
        try:
            jobs = self.queue.claim(self.worker, list(self.catalog), most, warm=warm, warm_s=warm_s)
        except SQLAlchemyError as error:
            log.warning("the queue does not answer", error=type(error).__name__)
            return []
        for job in jobs:
            if job.endpoint != self._last:
                self._last, self._since = job.endpoint, time.monotonic()
            waited_s = max(0.0, (job.started_at or job.created_at) - job.created_at)
            self.metrics.submit_to_start.labels(job.endpoint, PRIORITIES[job.priority]).observe(waited_s)
        return [Assignment(job, self.catalog[job.endpoint]) for job in jobs]
