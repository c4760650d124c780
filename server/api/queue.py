"""fal's queue: submit, status, status stream, result, cancel (fal-protocol.md §2)."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError
from starlette.responses import Response, StreamingResponse

from pipelines.errors import InputError
from server import bodies
from server.api.hold import Observer
from server.api.lookout import Wish
from server.api.order import CheckedInput, NamedEndpoint, checked_input, put, terms_of
from server.api.reply import REQUEST_ID, reply, result_of
from server.api.service import Caller, JsonBody, Reader, Service, ServiceOf, as_json, reader
from server.api.watch import changes
from server.errors import NotFound, error_response
from server.queue.idempotency import HEADER, Idempotency
from server.queue.job import Job

SWITCHED_ON = ("1", "true", "yes", "on")
"""JS clients send logs=1, Python clients logs=true (fal-protocol.md §2.2)."""
CANCEL_STATUS = {"CANCELLATION_REQUESTED": 202, "ALREADY_COMPLETED": 400, "NOT_FOUND": 404}

polls = APIRouter(prefix=bodies.QUEUE_PREFIX)
"""Asked for ten times per second by each waiting client: included first, so that no other route is tried before."""
router = APIRouter(prefix=bodies.QUEUE_PREFIX)


def own_job(application: str, request_id: str, owner: Reader, service: ServiceOf) -> Job:
    """The caller's job of this application. Raises NotFound alike for no job, another's job, another application."""
    job = service.queue.get(request_id, owner) if is_uuid(request_id) else None
    if job is None or application not in applications(service, job.endpoint):
        raise NotFound
    return job


OwnJob = Annotated[Job, Depends(own_job)]


def is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def applications(service: Service, endpoint_id: str) -> set[str]:
    """Under which paths clients look for this endpoint's requests: full ids, as in fal's OpenAPI, and owner/alias."""
    offered = {name for name, endpoint in service.endpoints.items() if endpoint.id == endpoint_id}
    return {name for full in offered | {endpoint_id} for name in (full, bodies.application_of(full))}


async def wants_logs(logs: str = "") -> bool:
    """The query parameter `logs`, in any of the clients' spellings."""
    return logs.lower() in SWITCHED_ON


WantsLogs = Annotated[bool, Depends(wants_logs)]


@router.get("/{application:path}/requests/{request_id}/status/stream")
async def status_stream(job: OwnJob, logs: WantsLogs, service: ServiceOf) -> StreamingResponse:
    """Server-sent events: a status per change with the log lines that are new, until COMPLETED."""
    headers = {REQUEST_ID: job.id, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(service, job, logs), media_type="text/event-stream", headers=headers)


async def events(service: Service, job: Job, logs: bool) -> AsyncIterator[bytes]:
    async for change in changes(service.lookout, Wish(job.id, job.owner, with_lines=True)):
        if change is None:
            yield b": ping\n\n"
            continue
        lines = change.new_lines if logs else None
        yield b"data: " + as_json(bodies.status(change.job, change.position, lines)) + b"\n\n"


@polls.get("/{application:path}/requests/{request_id}/status")
async def status(request: Request, application: str, request_id: str, logs: WantsLogs, service: ServiceOf) -> Response:
    """202 with IN_QUEUE or IN_PROGRESS, 200 with COMPLETED: clients take any 200 for completed.

    A poll with nothing new is answered when there is news, after hold_status_ms at most.
    """
    owner = await service.familiar.owner(request, lambda: reader(request, service))
    seen = await service.polls.view(Observer.of(request, request_id, logs), owner) if is_uuid(request_id) else None
    if seen is None or application not in applications(service, seen.job.endpoint):
        raise NotFound
    code = 200 if seen.job.state == "COMPLETED" else 202
    return reply(code, bodies.status(seen.job, seen.position, seen.lines), request_id)


@router.put("/{application:path}/requests/{request_id}/cancel")
def cancel(application: str, request_id: str, owner: Caller, service: ServiceOf) -> Response:
    """Ask to stop; unlike elsewhere the body says NOT_FOUND for an unknown request (fal-protocol.md §2.5)."""
    try:
        job = own_job(application, request_id, owner, service)
    except NotFound:
        # Not the path's words as the header: they are no id of ours, and no text that a header may hold.
        return reply(404, {"status": "NOT_FOUND", "detail": "Request not found"}, str(uuid4()))
    outcome = service.queue.cancel(job.id, owner)
    return reply(CANCEL_STATUS[outcome], {"status": outcome}, job.id)


@router.get("/{application:path}/requests/{request_id}/response")
@router.get("/{application:path}/requests/{request_id}")
def result(job: OwnJob) -> Response:
    """The model's bare output, or the failure with its own status; the same bytes every time."""
    if job.state != "COMPLETED":
        return reply(400, {"detail": "Request is still in progress"}, job.id)
    return result_of(job)


@router.post("/{endpoint_id:path}")
def submit(request: Request, owner: Caller, endpoint: NamedEndpoint, body: JsonBody, service: ServiceOf) -> Response:
    """Queue a request. An invalid input is accepted, too: its 422 is the result (fal-protocol.md §2.1)."""
    terms = terms_of(request, service.settings)
    idempotency = Idempotency.of(request.headers.getlist(HEADER), endpoint.id, body)
    try:
        checked = checked_input(service, endpoint, body)
    except (ValidationError, InputError) as error:
        refusal = error_response(error)
        checked = CheckedInput({}, {}, finished=(refusal.status, refusal.body, refusal.error_type))
    job = put(service, endpoint, checked, owner=owner, terms=terms, idempotency=idempotency)
    return reply(200, bodies.submitted(job, service.queue.position(job)), job.id)
