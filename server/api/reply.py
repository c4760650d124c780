"""Answers about one job, with the header that carries its id: JavaScript clients read it nowhere else."""

from starlette.responses import Response

from server import bodies
from server.api.service import as_json
from server.errors import stored_error
from server.queue.job import Job

REQUEST_ID = "x-fal-request-id"


def reply(code: int, body: object, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer with the request's id."""
    named = {REQUEST_ID: request_id, **(headers or {})}
    return Response(as_json(body), status_code=code, headers=named, media_type="application/json")


def result_of(job: Job) -> Response:
    """The answer of a completed job: the model's bare output, or the failure with its own status and headers."""
    code = job.http_status or 200
    headers = {} if code < 400 else stored_error(code, job.result or {}, job.error_type).headers
    return reply(code, bodies.result(job), job.id, headers)
