"""What every route needs: the settings, the endpoints offered, the queue, the files; and who is asking."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic_core import from_json

from pipelines.endpoint import Endpoint
from pipelines.errors import InputError
from server.api.counters import Counters
from server.api.watch import News
from server.auth import authenticate
from server.errors import TooLarge
from server.files import FileStore
from server.queue.queue import Queue
from server.settings import Settings
from server.tickets import Tickets
from server.webhooks import Signer

MEGABYTE = 1024 * 1024


class InvalidJson(InputError):
    """The request body is not valid JSON."""

    type = "json_invalid"


@dataclass(frozen=True)
class Service:
    """One per process, made by create_app.

    Args:
        endpoints: by every id under which they are offered, aliases included where they are switched on.
        tickets / signer: sign permissions to upload / webhooks.
        counters: of this process's HTTP requests.
        news: wakes whoever waits for a job, in this process's event loop.
    """

    settings: Settings
    endpoints: Mapping[str, Endpoint]
    queue: Queue
    files: FileStore
    news: News
    counters: Counters
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


def caller(request: Request, service: ServiceOf) -> str:
    """The owner of this request. Raises Unauthorized or Forbidden."""
    return authenticate(service.queue, request.headers)


Caller = Annotated[str, Depends(caller)]


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


def json_of(request: Request, body: RawBody) -> dict[str, Any]:
    """The body as a JSON object. NaN, Infinity, lone surrogates and nesting beyond 200 levels are not JSON here.

    Raises:
        InputError: 422 saying where the JSON breaks, or that it is not an object, or not sent as JSON.
    """
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if not (content_type == "application/json" or content_type.endswith("+json")):
        raise InvalidJson((), "Send the body as application/json.")
    try:
        parsed = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJson((), f"JSON decode error: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidJson((), "Input should be a JSON object.")
    return parsed


JsonBody = Annotated[dict[str, Any], Depends(json_of)]


def as_json(value: object) -> bytes:
    """Compact UTF-8 JSON, identical bytes for identical values."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
