"""An order: the checked input and the terms on which it is queued, from one submit or run."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from pipelines.endpoint import Endpoint, Loc
from pipelines.errors import InputError
from server.api.entrance import address_of
from server.api.service import Service, ServiceOf, as_json
from server.bodies import FILE
from server.errors import BadRequest, NotFound
from server.files import content_id
from server.inputs import decode_data_uri
from server.lifecycle import REQUEST_HEADERS, Lifecycle
from server.queue.idempotency import Idempotency
from server.queue.job import Job
from server.queue.submission import Terms
from server.settings import Settings
from server.webhooks import check_url

LARGEST_ROW = 64 * 1024
"""Bytes of an input in the queue, after its pictures went to the file store (architecture.md, the main path)."""
YES = ("1", "true", "yes")
"""What X-Fal-No-Retry may say (fal-protocol.md §2.1)."""
Finished = tuple[int, dict[str, Any], str | None]
"""HTTP status, body and error type of a request that needs no worker."""
SHORTEST_START_TIMEOUT_S = 0.1
MOST_DIGITS = 18
"""Of a number that is only compared: more digits mean no more, and Python refuses to read thousands."""


class InputTooLarge(InputError):
    """The request's text fields are too large; shorten them to 64 KiB in all."""

    type = "file_too_large"


@dataclass(frozen=True)
class CheckedInput:
    """The known fields of a valid body, and the bytes of its data URIs by the file ids that replace them there.

    Args:
        finished: how a request ended whose input is not valid, so that it needs no worker.
        batch_key: see Input.
    """

    known: dict[str, Any]
    photos: Mapping[str, bytes]
    finished: Finished | None = None
    batch_key: str = ""


def terms_of(request: Request, settings: Settings) -> Terms:
    """What fal's headers and query parameters say (fal-protocol.md §2.1); unknown priorities and headers are tolerated.

    Raises:
        BadRequest, WebhookRefused: what cannot be read.
    """
    headers, query = request.headers, request.query_params
    webhook = query.get("fal_webhook") or None
    if webhook:
        check_url(webhook, settings)
    lifecycle = Lifecycle.of(headers, REQUEST_HEADERS)
    return Terms(
        base_url=address_of(request).base_url,
        priority=1 if headers.get("x-fal-queue-priority", "").lower() == "low" else 0,
        webhook=webhook,
        start_timeout_s=start_timeout(headers.get("x-fal-request-timeout")),
        store_io=headers.get("x-fal-store-io", "").strip() != "0",
        max_queue=longest_queue(query.get("fal_max_queue_length"), settings.max_queue),
        max_waiting=settings.max_queued_per_key,
        no_retry=headers.get("x-fal-no-retry", "").strip().lower() in YES,
        lifecycle=asdict(lifecycle) if lifecycle else None,
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


async def endpoint_of_path(endpoint_id: str, service: ServiceOf) -> Endpoint:
    """`named_endpoint` of the route's parameter; async, because a hop to a thread costs more than a look-up."""
    return named_endpoint(endpoint_id, service)


def named_endpoint(endpoint_id: str, service: Service) -> Endpoint:
    """The endpoint that a path names. Raises NotFound."""
    endpoint = service.endpoints.get(endpoint_id)
    if endpoint is not None:
        return endpoint
    for known in service.endpoints:
        if endpoint_id.startswith(f"{known}/"):
            raise NotFound(f"Path {endpoint_id.removeprefix(known)} not found")
    raise NotFound(f"Application '{endpoint_id}' not found")


NamedEndpoint = Annotated[Endpoint, Depends(endpoint_of_path)]


def put(
    service: Service,
    endpoint: Endpoint,
    checked: CheckedInput,
    *,
    owner: str,
    terms: Terms,
    idempotency: Idempotency | None = None,
) -> Job:
    """Queue a checked input on these terms, or store it already finished; the same one again is found, not stored.

    Raises:
        QueueFull, ConcurrentRequests, IdempotencyKeyReused: nothing was queued.
    """
    known = service.queue.repeats.of(owner, idempotency) if idempotency else None
    if known is not None:
        return known
    if checked.photos:  # a refused request must leave no face behind
        service.queue.check_room(owner, **terms.limits)
        service.queue.drafts.expect(owner, checked.photos)
    for file_id, data in checked.photos.items():
        service.files.save_as(file_id, data)
    found = {"finished": checked.finished, "photos": list(checked.photos), "batch_key": checked.batch_key}
    more = {"idempotency": idempotency, **found, **asdict(terms)}
    return service.queue.put(endpoint.id, checked.known, owner=owner, **more)


def checked_input(service: Service, endpoint: Endpoint, body: dict[str, Any]) -> CheckedInput:
    """A valid body, each data URI in it replaced by ``file:<id>``; nothing is stored yet.

    Raises:
        ValidationError, InputError: naming the field that cannot be used.
    """
    model = endpoint.input.model_validate(body)
    known, photos = model.model_dump(mode="json", exclude_unset=True), dict[str, bytes]()
    for image in model.images():
        if image.url[:5].lower() == "data:":
            data, content_type = decode_data_uri(image, service.settings)
            file_id = content_id(data, content_type)
            photos[file_id] = data
            place(known, image.loc, FILE + file_id)
    if len(as_json(known)) > LARGEST_ROW:
        raise InputTooLarge(())
    return CheckedInput(known, photos, batch_key=model.batch_key())


def place(body: dict[str, Any], loc: Loc, value: str) -> None:
    """Set the value at `loc` in nested lists and objects."""
    node: Any = body
    for step in loc[:-1]:
        node = node[step]
    node[loc[-1]] = value
