"""create_app: hosts -> routes, the error handlers, the start and the end of the process. Loads no torch."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from pipelines.endpoint import Endpoint
from pipelines.errors import InputError
from server.api import erase, health, jwks, openapi, playground, queue, realtime, run, storage
from server.api.counters import Counters
from server.api.entrance import Entrance, address_of
from server.api.familiar import Familiar
from server.api.gauges import Gauges
from server.api.hold import Polls
from server.api.lookout import Lookout
from server.api.news import News
from server.api.observe import Observe, failure
from server.api.service import Service, by_id
from server.bodies import QUEUE_PREFIX
from server.errors import NotFound, RequestError
from server.files import FileStore
from server.queue.queue import Queue
from server.settings import Settings
from server.signing import Signer
from server.tickets import Tickets

EXPOSED = (
    "x-fal-request-id",
    "x-fal-request-timeout-type",
    "x-fal-error-type",
    "x-fal-retryable",
    "x-fal-needs-retry",
    "x-fal-billable-units",
    "etag",
)
"""What fal's clients read in a browser (fal-protocol.md §1.7)."""


def create_app(settings: Settings, catalog: Sequence[Endpoint], queue_: Queue, files: FileStore) -> FastAPI:
    """The HTTP side of the server; the queue's tables must exist."""
    signer, tickets = Signer(queue_.vault), Tickets(queue_.vault.ticket_secret())
    news = News()
    lookout = Lookout(queue_, news)
    service = Service(
        settings=settings,
        endpoints=by_id(catalog, settings.aliases),
        queue=queue_,
        files=files,
        news=news,
        lookout=lookout,
        polls=Polls(lookout, settings.hold_status_ms / 1000),
        familiar=Familiar(),
        counters=Counters(),
        gauges=Gauges(queue_, [endpoint.id for endpoint in catalog]),
        tickets=tickets,
        signer=signer,
    )
    app = FastAPI(
        title="Veraicon",
        docs_url=None,  # FastAPI's pages load their scripts from a CDN
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=middleware(service),
        exception_handlers={
            RequestError: expected,
            InputError: expected,
            ValidationError: expected,
            RequestValidationError: invalid_query,
            HTTPException: no_such_route,
        },
    )
    app.state.service = service
    app.include_router(queue.polls)
    app.mount("/web", playground.static)
    for module in (realtime, queue, erase, storage, health, jwks, playground, openapi, run):
        app.include_router(module.router)
    return app


def middleware(service: Service) -> list[Middleware]:
    """Outermost first. CORS as fal's own servers have it: any origin, since a key is a header and never a cookie."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        allow_private_network=True,
        expose_headers=EXPOSED,
    )
    return [cors, Middleware(Entrance), Middleware(Observe, counters=service.counters)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hear the queue's news while the process serves."""
    service: Service = app.state.service
    service.news.listen(service.queue.rings("news"), asyncio.get_running_loop())
    yield
    service.news.close()


async def expected(request: Request, error: Exception) -> Response:
    return failure(error, request.scope)


async def invalid_query(request: Request, error: RequestValidationError) -> Response:
    """A query or path parameter of our own routes that does not parse."""
    first = error.errors()[0]
    message = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return failure(RequestError(message, http_status=422, error_type="bad_request"), request.scope)


async def no_such_route(request: Request, error: HTTPException) -> Response:
    """fal's body for an unknown path; also where only the catch-all for POST knows the path."""
    endpoints = request.app.state.service.endpoints
    path = request.scope["path"]
    if error.status_code == 404 or path.removeprefix(QUEUE_PREFIX).strip("/") not in endpoints:
        return failure(NotFound(f"Path {address_of(request).path} not found"), request.scope)
    return failure(
        RequestError(str(error.detail), http_status=error.status_code, error_type="bad_request"), request.scope
    )
