"""Failure -> fal's error body and headers (fal-protocol.md §2.9): the one place, for HTTP and for the worker."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from pipelines.errors import Cancelled, InputError, OutOfMemory

DOCS = "https://docs.fal.ai/errors/#"
LONGEST_ECHO = 500
"""Characters of a client's own string that are repeated to it in `input`."""
DEEPEST_ECHO, WIDEST_ECHO = 6, 50
LARGEST_ECHO, MOST_DETAILS = 1000, 32
"""Characters of JSON that are repeated, and errors told, so that an outcome fits into a small row of the queue."""

Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class ErrorResponse:
    """What the client gets. `error_type` also goes into the job's status."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    error_type: str | None = None


class RequestError(Exception):
    """The request could not be served.

    fal's infrastructure family: one text and one error type. A subclass's docstring is its text.

    Args:
        detail: what happened and what to do next, for the client.
    """

    http_status = 500
    error_type = "internal_error"
    retryable = False

    def __init__(
        self, detail: str | None = None, *, http_status: int | None = None, error_type: str | None = None
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip().splitlines()[0]
        self.http_status = http_status or self.http_status
        self.error_type = error_type or self.error_type
        super().__init__(self.detail)


class BadRequest(RequestError):
    """The request is malformed."""

    http_status, error_type = 400, "bad_request"


class Unauthorized(RequestError):
    """No user found for Key ID and Secret"""

    http_status, error_type = 401, "unauthorized"


class NotFound(RequestError):
    """Request not found"""

    http_status, error_type = 404, "not_found"


class TooLarge(RequestError):
    """The request's body is too large."""

    http_status, error_type = 413, "request_too_large"


class QueueFull(RequestError):
    """The queue is full. Nothing was queued; send the request again later."""

    http_status, error_type, retryable = 429, "queue_full", True


class ConcurrentRequests(RequestError):
    """Too many requests of this key wait or run already. Nothing was started; wait for one of them."""

    http_status, error_type, retryable = 429, "concurrent_requests_limit", True


class Unavailable(RequestError):
    """The server cannot store requests at the moment. Nothing was queued; send the request again later."""

    http_status, error_type, retryable = 503, "service_unavailable", True


class RunnerDisconnected(RequestError):
    """The worker stopped while it ran this request, on every attempt; the server's log has the cause."""

    http_status, error_type, retryable = 503, "runner_disconnected", True


class RequestTimeout(RequestError):
    """Request timed out"""

    http_status, error_type = 504, "request_timeout"


class DeviceTooSmall(RequestError):
    """The GPU's memory does not suffice for this request: ask for a smaller picture, or for fewer at once."""

    http_status, error_type = 500, "runner_server_error"


class ClientCancelled(RequestError):
    """Request was cancelled by the client"""

    http_status, error_type = 499, "client_cancelled"


def error_response(exc: BaseException, *, loc_prefix: Loc = ("body",)) -> ErrorResponse:
    """fal's answer to this failure. The text of an unforeseen one stays out of it: log it where it is caught.

    Args:
        loc_prefix: what stands before the field's own place in `loc`.
    """
    match exc:
        case ValidationError():
            told = [_pydantic_detail(error, loc_prefix) for error in exc.errors()[:MOST_DETAILS]]
            if exc.error_count() > MOST_DETAILS:
                more = f"There are {exc.error_count() - MOST_DETAILS} more errors: put these right first."
                told.append(_detail(loc_prefix, more, "too_many_errors"))
            return _model_error(422, told)
        case InputError():
            return _model_error(422, [_detail((*loc_prefix, *exc.loc), exc.message, exc.type, ctx=exc.ctx)])
        case Cancelled():
            return error_response(ClientCancelled())
        case OutOfMemory():
            return error_response(DeviceTooSmall())
        case RequestError():
            body = {"detail": exc.detail, "error_type": exc.error_type}
            return ErrorResponse(
                exc.http_status, body, error_headers(exc.http_status, exc.error_type, exc.retryable), exc.error_type
            )
        case _:
            message = "Internal server error; the server's log has the cause under this request's id."
            return _model_error(500, [_detail(loc_prefix, message, "internal_server_error")])


def stored_error(http_status: int, body: dict[str, Any], error_type: str | None) -> ErrorResponse:
    """The answer for a finished job's failure, from its row."""
    return ErrorResponse(http_status, body, error_headers(http_status, error_type), error_type)


def error_headers(http_status: int, error_type: str | None, retryable: bool | None = None) -> dict[str, str]:
    """The headers beside an error's body; both spellings of fal's retry header (fal-protocol.md §2.9)."""
    again = retryable if retryable is not None else error_type == "runner_disconnected"
    headers = {"X-Fal-Retryable": str(again).lower(), "X-Fal-Needs-Retry": str(again).lower()}
    if error_type:
        headers["X-Fal-Error-Type"] = error_type
    if error_type == "request_timeout":
        headers["X-Fal-Request-Timeout-Type"] = "user"
    if http_status == 422:
        headers["x-fal-billable-units"] = "0"
    return headers


def json_safe(value: Any, depth: int = 0) -> Any:
    """`value` as JSON that any client can parse: no NaN, bytes, lone surrogates, data URIs or endless text."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return _short(value.encode("utf-8", "replace").decode("utf-8"))
        case bytes():
            return f"<binary {len(value)} bytes>"
        case _ if depth >= DEEPEST_ECHO:
            return "<nested too deep to repeat>"
        case Mapping():
            return {str(json_safe(str(key))): json_safe(value[key], depth + 1) for key in list(value)[:WIDEST_ECHO]}
        case Sequence() | set() | frozenset():
            return [json_safe(item, depth + 1) for item in list(value)[:WIDEST_ECHO]]
        case _:
            return _short(str(value))


def _model_error(status: int, details: list[dict[str, Any]]) -> ErrorResponse:
    error_type = str(details[0]["type"])
    return ErrorResponse(status, {"detail": details}, error_headers(status, error_type), error_type)


def _pydantic_detail(error: Mapping[str, Any], loc_prefix: Loc) -> dict[str, Any]:
    return _detail((*loc_prefix, *error["loc"]), error["msg"], error["type"], error.get("ctx"), error.get("input"))


def _detail(
    loc: Loc, message: str, error_type: str, ctx: Mapping[str, Any] | None = None, given: Any = None
) -> dict[str, Any]:
    detail: dict[str, Any] = {"loc": list(loc), "msg": message, "type": error_type, "url": DOCS + error_type}
    if ctx:
        detail["ctx"] = json_safe(ctx)
    if given is not None:
        echo = json_safe(given)
        large = len(json.dumps(echo)) > LARGEST_ECHO
        detail["input"] = f"<{type(given).__name__}, too large to repeat>" if large else echo
    return detail


def _short(text: str) -> str:
    if text.startswith("data:"):
        return f"{text[:40]}... ({len(text)} characters)" if len(text) > 80 else text
    return text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}... ({len(text)} characters)"
