"""The synchronous run: the same queue, with a client who waits on the line (fal-protocol.md §3)."""

import asyncio
from dataclasses import replace

import structlog
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from server.api.lookout import Wish
from server.api.order import NamedEndpoint, checked_input, put, terms_of
from server.api.reply import reply, result_of
from server.api.service import Caller, JsonBody, Service, ServiceOf
from server.api.watch import changes
from server.errors import ClientCancelled, NotFound, RequestError, error_response
from server.queue.job import Job

router = APIRouter()

log = structlog.get_logger()


class CutOff(RequestError):
    """The server stopped before this request was finished. It is still queued: ask the queue for x-fal-request-id."""


@router.post("/{endpoint_id:path}")
async def run(request: Request, owner: Caller, endpoint: NamedEndpoint, body: JsonBody, service: ServiceOf) -> Response:
    """Queue, wait, answer. An invalid input is refused at once; a client who hangs up cancels the job."""

    def order() -> Job:
        settings = service.settings
        terms = replace(terms_of(request, settings), max_unfinished=settings.max_concurrent_per_key)
        return put(service, endpoint, checked_input(service, endpoint, body), owner=owner, terms=terms)

    job = await run_in_threadpool(order)
    finishing = asyncio.create_task(finished(service, job))
    leaving = asyncio.create_task(hung_up(request))
    try:
        await asyncio.wait({finishing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if finishing.done():
            return result_of(finishing.result())
        await run_in_threadpool(service.queue.cancel, job.id, owner)
        return refused(ClientCancelled(), job)
    except asyncio.CancelledError:  # uvicorn's, at the end of the server's grace; the job itself goes on
        log.warning("a client that waits on the line is cut off: the server stops", request_id=job.id)
        return refused(CutOff(), job)
    finally:
        finishing.cancel()
        leaving.cancel()


def refused(error: RequestError, job: Job) -> Response:
    answer = error_response(error)
    return reply(answer.status, answer.body, job.id, answer.headers)


async def finished(service: Service, job: Job) -> Job:
    """The job once it is COMPLETED. Raises NotFound when it was deleted meanwhile."""
    async for change in changes(service.lookout, Wish(job.id, job.owner, with_lines=False)):
        if change is not None and change.job.state == "COMPLETED":
            return change.job
    raise NotFound("The request was deleted while it was awaited.")


async def hung_up(request: Request) -> None:
    """Return when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
