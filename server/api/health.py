"""For load balancers and operators: /health (the process lives), /ready (requests will be served), /metrics."""

import shutil
from collections.abc import Iterator

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from server.api.service import ServiceOf
from server.queue.job import WorkerState
from server.queue.queue import Queue

LEAST_FREE_MB = 64
"""Below this the next pictures may not find room."""

router = APIRouter()


@router.get("/health")
@router.get("/healthz")
async def health() -> dict[str, str]:
    """The process answers; no database, so that a slow disk does not get it restarted."""
    return {}


@router.get("/ready")
@router.get("/readyz")
def ready(service: ServiceOf) -> JSONResponse:
    """200 once the queue can be reached and a worker is ready; else 503 with every reason."""
    try:
        workers = service.queue.workers()
    except SQLAlchemyError as error:
        return JSONResponse({"ready": False, "reasons": [f"the queue cannot be reached: {type(error).__name__}"]}, 503)
    reasons = [] if any(worker.state == "ready" for worker in workers) else not_ready(workers)
    free_mb = shutil.disk_usage(service.settings.data_dir).free // 1_000_000
    if free_mb < LEAST_FREE_MB:
        reasons = [*reasons, f"only {free_mb} MB of disk are free in {service.settings.data_dir}: make room"]
    body = {"ready": not reasons, "reasons": reasons, "weights": service.settings.weights, "workers": len(workers)}
    return JSONResponse(body, 503 if reasons else 200)


def not_ready(workers: list[WorkerState]) -> list[str]:
    """Why no worker is ready, one reason each."""
    told = [f"worker {worker.name} on {worker.device} is {worker.state}: {worker.message}" for worker in workers]
    return told or ["no worker is running; start one with `veraicon worker` or `veraicon serve`"]


@router.get("/metrics")
def metrics(service: ServiceOf) -> Response:
    """Prometheus text: what this process counted, and the queue and the workers as they are now."""
    registry = CollectorRegistry()
    registry.register(QueueCollector(service.queue))
    return Response(service.counters.text() + generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class QueueCollector(Collector):
    """The queue and the workers at the moment of the scrape."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("veraicon_jobs", "Stored requests by state.", labels=["state"])
        for state, number in self.queue.counts().items():
            jobs.add_metric([state], number)
        yield jobs
        workers = GaugeMetricFamily("veraicon_worker", "Workers by device and state.", labels=["device", "state"])
        for worker in self.queue.workers():
            workers.add_metric([worker.device, worker.state], 1)
        yield workers

    def describe(self) -> list[Metric]:
        """Nothing, so that registering does not ask the database."""
        return []
