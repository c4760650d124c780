"""What every route needs: the settings, the endpoints offered, the queue, the files; and who is asking."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from pipelines.endpoint import Endpoint
from pipelines.errors import InputError
from server.api.counters import Counters
from server.api.familiar import Familiar
from server.api.gauges import Gauges
from server.api.hold import Polls
from server.api.lookout import Lookout
from server.api.news import News
from server.auth import Grant, authenticate
from server.errors import TooLarge
from server.files import FileStore
from server.queue.queue import Queue
from server.settings import Settings
from server.signing import Signer
from server.tickets import Tickets

MEGABYTE = 1024 * 1024
QUICKLY_PARSED = 64 * 1024
"""Bytes of JSON that are parsed within a fraction of a millisecond."""


class InvalidJson(InputError):
    """The request body is not valid JSON."""

    type = "json_invalid"


@dataclass(frozen=True)
class Service:
    """One per process, made by create_app.

    Args:
        endpoints: by every id under which they are offered, aliases included where they are switched on.
        tickets / signer: sign permissions to upload / webhooks.
        counters: of this process's HTTP requests; gauges: of the queue and all other processes.
        news: heard in this process's event loop; lookout: whoever waits there for news of a job.
        polls / familiar: the status polls that wait for news; who polls.
    """

    settings: Settings
    endpoints: Mapping[str, Endpoint]
    queue: Queue
    files: FileStore
    news: News
    lookout: Lookout
    polls: Polls
    familiar: Familiar
    counters: Counters
    gauges: Gauges
    tickets: Tickets
    signer: Signer


def by_id(catalog: Sequence[Endpoint], aliases: bool) -> dict[str, Endpoint]:
    """The endpoints of a catalog by id and, if wanted, by alias; an id wins over an alias of the same name."""
    others = {name: endpoint for endpoint in catalog for name in endpoint.aliases} if aliases else {}
    return others | {endpoint.id: endpoint for endpoint in catalog}


async def service_of(request: Request) -> Service:
    """What create_app made. Async, as every dependency without I/O: a synchronous one costs a hop to a thread."""
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(service_of)]


def grant_of(request: Request, service: ServiceOf) -> Grant:
    """Who asks, and what that key may do. Raises Unauthorized or Forbidden."""
    return authenticate(service.queue.keys, request.headers)


GrantOf = Annotated[Grant, Depends(grant_of)]


def caller(request: Request, service: ServiceOf) -> str:
    """The owner, whose key may run: submit, run, cancel, upload. Raises Unauthorized or Forbidden."""
    return grant_of(request, service).owner_for("run")


def reader(request: Request, service: ServiceOf) -> str:
    """The owner, whose key may read: status, stream, result. Raises Unauthorized or Forbidden."""
    return grant_of(request, service).owner_for("read")


Caller = Annotated[str, Depends(caller)]
Reader = Annotated[str, Depends(reader)]


async def read_body(request: Request, limit_mb: int) -> bytes:
    """The request's body, refused as soon as it is known to be too large: never more than the limit in memory.

    Raises:
        TooLarge: 413.
    """
    check_size(int(request.headers.get("content-length") or 0), limit_mb)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        check_size(size, limit_mb)
        chunks.append(chunk)
    return b"".join(chunks)


def check_size(size: int, limit_mb: int) -> None:
    if size > limit_mb * MEGABYTE:
        raise TooLarge(f"The request's body is larger than this server's limit of {limit_mb} MB.")


async def body_of(request: Request, service: ServiceOf) -> bytes:
    """A body up to max_body_mb."""
    return await read_body(request, service.settings.max_body_mb)


async def upload_of(request: Request, service: ServiceOf) -> bytes:
    """A file, or a part of one, up to max_upload_mb."""
    return await read_body(request, service.settings.max_upload_mb)


RawBody = Annotated[bytes, Depends(body_of)]
UploadBody = Annotated[bytes, Depends(upload_of)]


async def json_body(request: Request, body: RawBody) -> dict[str, Any]:
    """`json_of` this request; a hop to a thread is cheaper than to hold up everybody only for large bodies."""
    content_type = request.headers.get("content-type", "application/json")
    if len(body) <= QUICKLY_PARSED:
        return json_of(content_type, body)
    return await run_in_threadpool(json_of, content_type, body)


def json_of(content_type: str, body: bytes) -> dict[str, Any]:
    """The body as a JSON object. NaN, Infinity, lone surrogates and nesting beyond 200 levels are not JSON here.

    Raises:
        InputError: 422 saying where the JSON breaks, or that it is not an object, or not sent as JSON.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if not (media_type == "application/json" or media_type.endswith("+json")):
        raise InvalidJson((), "Send the body as application/json.")
    try:
        parsed = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJson((), f"JSON decode error: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidJson((), "Input should be a JSON object.")
    return parsed


JsonBody = Annotated[dict[str, Any], Depends(json_body)]


def as_json(value: object) -> bytes:
    """Compact UTF-8 JSON, identical bytes for identical values."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
