"""Gauges: the queue, the workers and what the other processes measured, as one page of Prometheus text.

Beside our own names stand fal's, with fal's labels, so that dashboards made for fal's `/serverless/metrics` go on to
work (docs/metrics.md). No owner, no request, no URL is in any label.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy.exc import SQLAlchemyError

from server.metrics import families, text_of
from server.queue.census import LATENCIES_S, Figures
from server.queue.job import PRIORITIES, Condition, WorkerState
from server.queue.queue import Queue

SHARE = 50
"""A page is good for this many times as long as it took to make: scrapes cost 2 % of one core at most."""
LONGEST_S = 15.0
RUNNER_STATES: dict[Condition, str] = {
    "loading": "pending",
    "ready": "running",
    "failed": "dead",
    "quarantined": "dead",
}
"""Our words for how a worker is -> fal's for a runner."""

log = structlog.get_logger()


class Gauges:
    """Makes the page, and keeps it for a moment; safe to share between threads."""

    def __init__(self, queue: Queue, endpoints: Sequence[str]) -> None:
        self._queue, self._endpoints = queue, endpoints
        self._page, self._until = b"", 0.0
        self._making = threading.Lock()

    def text(self) -> bytes:
        """Prometheus text; without the queue it holds little more than that there is none."""
        with self._making:
            began = time.monotonic()
            if began >= self._until:
                self._page = self._make()
                now = time.monotonic()
                self._until = now + min(LONGEST_S, SHARE * (now - began))
            return self._page

    def _make(self) -> bytes:
        try:
            return text_of([up(True), *self._collect()])
        except SQLAlchemyError as error:
            log.warning("the queue cannot be counted", error=type(error).__name__)
            return text_of([up(False)])

    def _collect(self) -> Iterator[Metric]:
        figures, workers = self._queue.census.take(), self._queue.workers()
        yield from ours(figures, workers, self._endpoints)
        yield paused(pause.endpoint for pause in self._queue.pauses.every())
        yield from fals(figures, workers, self._endpoints)
        yield from families((measure.process, measure.samples) for measure in self._queue.measures.every())


def up(answers: bool) -> Metric:
    return GaugeMetricFamily("veraicon_queue_up", "1 while the queue's database answers.", value=int(answers))


def paused(endpoints: Iterable[str]) -> Metric:
    family = GaugeMetricFamily(
        "veraicon_paused", "1 for each endpoint that an operator holds back.", labels=["endpoint"]
    )
    for endpoint in endpoints:
        family.add_metric([endpoint], 1)
    return family


def ours(figures: Figures, workers: Sequence[WorkerState], endpoints: Sequence[str]) -> Iterator[Metric]:
    """The queue and the workers under our names."""
    jobs = GaugeMetricFamily("veraicon_jobs", "Stored requests by state.", labels=["state"])
    for state, number in figures.states.items():
        jobs.add_metric([state], number)
    key = ["endpoint", "priority"]
    depth = GaugeMetricFamily("veraicon_queue_depth", "Requests that wait.", labels=key)
    oldest = GaugeMetricFamily("veraicon_queue_oldest_seconds", "How long the first of them has waited.", labels=key)
    # Zero where nobody waits: an alert must tell an empty queue from one that is not counted.
    depths = {(endpoint, priority): (0, 0.0) for endpoint in endpoints for priority in range(len(PRIORITIES))}
    depths |= {(one.endpoint, one.priority): (one.number, one.oldest_s) for one in figures.depths}
    for (endpoint, priority), (number, oldest_s) in depths.items():
        depth.add_metric([endpoint, PRIORITIES[priority]], number)
        oldest.add_metric([endpoint, PRIORITIES[priority]], oldest_s)
    running = GaugeMetricFamily("veraicon_running", "Requests in a worker's hands.", labels=["endpoint"])
    for endpoint in {*endpoints, *figures.running}:
        running.add_metric([endpoint], figures.running.get(endpoint, 0))
    alive = GaugeMetricFamily("veraicon_worker", "Workers by device and state.", labels=["device", "state"])
    for (device, state), number in Counter((worker.device, worker.state) for worker in workers).items():
        alive.add_metric([device, state], number)
    yield from (jobs, depth, oldest, running, alive)
    yield GaugeMetricFamily("veraicon_webhooks_waiting", "Webhooks to be sent, now or later.", value=figures.webhooks)


def fals(figures: Figures, workers: Sequence[WorkerState], endpoints: Sequence[str]) -> Iterator[Metric]:
    """fal's names; `application` is the endpoint's id. Every worker here serves every endpoint."""
    runners = gauge("fal_app_runners", "Number of workers.", "state", "machine_type")
    size = gauge("fal_app_queue_size", "Requests that wait.")
    concurrent = gauge("fal_app_concurrent_requests", "Requests in a worker's hands.")
    received = gauge("fal_app_requests_received", "Requests submitted in the last minute.", "method")
    waiting = Counter[str]()
    for depth in figures.depths:
        waiting[depth.endpoint] += depth.number
    states = Counter((RUNNER_STATES[worker.state], worker.device) for worker in workers)
    for endpoint in endpoints:
        for (state, device), number in states.items():
            runners.add_metric([endpoint, state, device], number)
        size.add_metric([endpoint], waiting[endpoint])
        concurrent.add_metric([endpoint], figures.running.get(endpoint, 0))
        received.add_metric([endpoint, "POST"], figures.received.get(endpoint, 0))
    yield from (runners, size, concurrent, received, *fals_ended(figures))


def fals_ended(figures: Figures) -> tuple[Metric, Metric]:
    completed = gauge("fal_app_requests_completed", "Requests that ended in the last minute.", "method", "status")
    latency = gauge("fal_app_request_latency", "The same, by the seconds from submit to end.", "le")
    totals: dict[str, list[int]] = {}
    for ended in figures.ended:
        completed.add_metric([ended.endpoint, "POST", str(ended.http_status)], ended.number)
        before = totals.get(ended.endpoint, [0] * (len(LATENCIES_S) + 1))
        totals[ended.endpoint] = [a + b for a, b in zip(before, [*ended.within, ended.number], strict=True)]
    for endpoint, numbers in totals.items():
        for limit, number in zip([*map(str, LATENCIES_S), "+Inf"], numbers, strict=True):
            latency.add_metric([endpoint, limit], number)
    return completed, latency


def gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, labels=["application", *labels])
