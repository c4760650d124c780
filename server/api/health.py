"""For load balancers and operators: /health (the process lives), /ready (requests will be served), /metrics."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from server.api.readiness import readiness_of
from server.api.service import ServiceOf

router = APIRouter()


@router.get("/health")
@router.get("/healthz")
async def health() -> dict[str, str]:
    """The process answers; no database, so that a slow disk does not get it restarted."""
    return {}


@router.get("/ready")
@router.get("/readyz")
def ready(service: ServiceOf) -> JSONResponse:
    """200 once the queue can be reached and a worker is ready; else 503 with every reason and what to do about it."""
    readiness = readiness_of(service.queue, service.settings)
    body = {
        "ready": not readiness.reasons,
        "reasons": readiness.reasons,
        "weights": service.settings.weights,
        "workers": [
            {"name": one.name, "device": one.device, "state": one.state, "reason": one.message}
            for one in readiness.workers
        ],
        "paused": [vars(pause) for pause in readiness.paused],
    }
    return JSONResponse(body, 503 if readiness.reasons else 200)


@router.get("/metrics")
def metrics(service: ServiceOf) -> Response:
    """Prometheus text: what this process counted, and the queue and all other processes as they are now."""
    return Response(service.counters.text() + service.gauges.text(), media_type=CONTENT_TYPE_LATEST)
