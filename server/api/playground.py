"""The web page at `/`: one HTML file, plain ES modules, one CSS file; no request leaves this server."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from server.api.service import ServiceOf

WEB = Path(__file__).parent.parent / "web"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

router = APIRouter()
static = StaticFiles(directory=WEB)


@router.get("/")
def page() -> FileResponse:
    return FileResponse(WEB / "index.html", headers=HEADERS)


@router.get("/api/endpoints")
def endpoints(service: ServiceOf) -> dict[str, Any]:
    """What the page offers, and whether its pictures are noise."""
    offered = dict.fromkeys(endpoint.id for endpoint in service.endpoints.values())
    return {
        "weights": service.settings.weights,
        "max_image_mb": service.settings.max_image_mb,
        "endpoints": [summary(service, endpoint_id) for endpoint_id in offered],
    }


def summary(service: ServiceOf, endpoint_id: str) -> dict[str, Any]:
    endpoint = service.endpoints[endpoint_id]
    return {
        "id": endpoint.id,
        "title": endpoint.title,
        "description": endpoint.description,
        "commercial_use": endpoint.commercial_use,
    }
