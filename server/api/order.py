"""An order: the checked input and the terms on which it is queued, from one submit or run."""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

from fastapi import Depends, Request

from pipelines.endpoint import Endpoint, ImageField, Loc
from pipelines.errors import InputError
from server.api.entrance import address_of
from server.api.service import Service, ServiceOf, as_json
from server.bodies import FILE
from server.errors import BadRequest, NotFound
from server.inputs import decode_data_uri
from server.queue.job import Job
from server.settings import Settings
from server.webhooks import check_url

LARGEST_ROW = 64 * 1024
"""Bytes of an input in the queue, after its pictures went to the file store (architecture.md, the main path)."""
Finished = tuple[int, dict[str, Any], str | None]
"""HTTP status, body and error type of a request that needs no worker."""
SHORTEST_START_TIMEOUT_S = 0.1
MOST_DIGITS = 18
"""Of a number that is only compared: more digits mean no more, and Python refuses to read thousands."""


class InputTooLarge(InputError):
    """The request's text fields are too large; shorten them to 64 KiB in all."""

    type = "file_too_large"


@dataclass(frozen=True)
class Terms:
    """How a request wants to be queued: fal's headers and query parameters (fal-protocol.md §2.1)."""

    base_url: str
    priority: int = 0
    webhook: str | None = None
    start_timeout_s: float | None = None
    store_io: bool = True
    max_queue: int | None = None

    @classmethod
    def of(cls, request: Request, settings: Settings) -> Self:
        """Read the terms. Unknown priorities and headers are tolerated. Raises BadRequest, WebhookRefused."""
        headers, query = request.headers, request.query_params
        webhook = query.get("fal_webhook") or None
        if webhook:
            check_url(webhook, settings)
        return cls(
            base_url=address_of(request).base_url,
            priority=1 if headers.get("x-fal-queue-priority", "").lower() == "low" else 0,
            webhook=webhook,
            start_timeout_s=start_timeout(headers.get("x-fal-request-timeout")),
            store_io=headers.get("x-fal-store-io", "").strip() != "0",
            max_queue=longest_queue(query.get("fal_max_queue_length"), settings.max_queue),
        )


def start_timeout(text: str | None) -> float | None:
    """Seconds within which a worker must have started. Raises BadRequest unless a finite number above 0.1."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not SHORTEST_START_TIMEOUT_S < seconds < math.inf:
        raise BadRequest("X-Fal-Request-Timeout must be a number of seconds above 0.1.")
    return seconds


def longest_queue(text: str | None, most: int) -> int:
    """The client's limit of the queue's length, never above the server's. Raises BadRequest unless a whole number."""
    if text is None:
        return most
    if not (text.isascii() and text.isdigit()):
        raise BadRequest("fal_max_queue_length must be a whole number.")
    return min(int(text[:MOST_DIGITS]), most)


def named_endpoint(endpoint_id: str, service: ServiceOf) -> Endpoint:
    """The endpoint that a path names. Raises NotFound."""
    endpoint = service.endpoints.get(endpoint_id)
    if endpoint is not None:
        return endpoint
    for known in service.endpoints:
        if endpoint_id.startswith(f"{known}/"):
            raise NotFound(f"Path {endpoint_id.removeprefix(known)} not found")
    raise NotFound(f"Application '{endpoint_id}' not found")


NamedEndpoint = Annotated[Endpoint, Depends(named_endpoint)]


def put(
    service: Service,
    endpoint: Endpoint,
    checked: dict[str, Any],
    *,
    owner: str,
    terms: Terms,
    finished: Finished | None = None,
) -> Job:
    """Queue a checked input on these terms, or store it already finished. Raises QueueFull."""
    return service.queue.put(endpoint.id, checked, owner=owner, finished=finished, **asdict(terms))


def checked_input(service: Service, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    """The known fields of a valid body, each data URI replaced by ``file:<id>`` of its stored bytes.

    Raises:
        ValidationError, InputError: naming the field that cannot be used.
    """
    model = endpoint.input.model_validate(body)
    known = model.model_dump(mode="json", exclude_unset=True)
    for image in model.images():
        if image.url[:5].lower() == "data:":
            place(known, image.loc, FILE + stored_data_uri(service, image))
    if len(as_json(known)) > LARGEST_ROW:
        raise InputTooLarge(())
    return known


def stored_data_uri(service: Service, image: ImageField) -> str:
    """The id of the file that now holds the data URI's bytes; the same bytes are kept once. Raises InputError."""
    data, content_type = decode_data_uri(image, service.settings)
    return service.files.save(data, content_type, by_content=True).id


def place(body: dict[str, Any], loc: Loc, value: str) -> None:
    """Set the value at `loc` in nested lists and objects."""
    node: Any = body
    for step in loc[:-1]:
        node = node[step]
    node[loc[-1]] = value
