"""What a request leaves behind: a log line and a count, without query, body or key; and failures as fal's JSON."""

import asyncio
import errno
import re
import time
import uuid

import structlog
from sqlalchemy.exc import InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.counters import Counters
from server.api.reply import REQUEST_ID, reply
from server.errors import Unavailable, error_response

WORTH_RECEIVING = 256 * 1024 * 1024
"""Bytes of a refused body that are still received, and dropped."""
RETRY_AFTER_S = "5"
LONGEST_REASON = 200
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
QUIET = frozenset({"/health", "/healthz", "/ready", "/readyz", "/metrics"})
NAMED = re.compile(r"/requests/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/|$)")

log = structlog.get_logger()


def route_of(scope: Scope) -> str:
    """The route's pattern, never the path itself: paths are unbounded, and file ids are secrets."""
    return getattr(scope.get("route"), "path", "none")


def named_in(path: str) -> dict[str, str]:
    """The request that a path names, for the log; nothing of a path that only looks like one."""
    found = NAMED.search(path)
    return {"request_id": found[1]} if found else {}


def failure(error: Exception, scope: Scope) -> Response:
    """fal's answer to an exception that no route expected; its text goes to the log only."""
    request_id = str(uuid.uuid4())
    # Locked, full or gone: nothing was acknowledged, so the client may send the same request again.
    outage = cannot_store(error)
    answer = error_response(Unavailable() if outage else error)
    if outage:  # of each request in its time: no tracebacks, which would fill the disk
        log.error(
            "the database or the file store does not answer",
            route=route_of(scope),
            request_id=request_id,
            reason=in_short(error),
        )
    elif answer.status >= 500:
        log.error("request failed", route=route_of(scope), request_id=request_id, exc_info=error)
    later = {"Retry-After": RETRY_AFTER_S} if answer.status in {429, 503} else {}
    return reply(answer.status, answer.body, request_id, answer.headers | later | hang_up(scope, answer.status))


def in_short(error: Exception) -> str:
    """One line that tells an operator what is wrong: the driver's own words, which name no request and no file."""
    told = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error) or type(error).__name__
    return told.splitlines()[0][:LONGEST_REASON]


def cannot_store(error: Exception) -> bool:
    """Whether the database or the file store takes nothing at the moment: locked, full, read-only, busy or gone."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return isinstance(error, OperationalError | InternalError | NoConnection)  # the second: PostgreSQL is read-only


def hang_up(scope: Scope, status: int) -> dict[str, str]:
    """Close the connection on a client that sends an endless or huge body.

    From others the rest is received and dropped: simple clients read no answer before they have sent everything.
    """
    announced = int(Headers(scope=scope).get("content-length", "0"))
    return {"Connection": "close"} if status == 413 and not 0 < announced <= WORTH_RECEIVING else {}


class Observe:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self.app, self.counters = app, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, sent = time.perf_counter(), {"status": 0, REQUEST_ID: None}
        about = named_in(scope["path"])

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent["status"] = message["status"]
                names = dict(message["headers"])
                sent[REQUEST_ID] = names.get(REQUEST_ID.encode(), b"").decode() or None
            await send(message)

        with structlog.contextvars.bound_contextvars(**about):
            try:
                await self.app(scope, receive, noting)
            except asyncio.CancelledError:  # uvicorn's, at the end of the server's grace
                log.warning("an answer is cut off: the server stops", route=route_of(scope))
            except ClientDisconnect:
                log.debug("the client left in the middle of its request", route=route_of(scope))
            except Exception as error:
                if sent["status"]:
                    raise  # the answer has begun: nothing can be said to the client any more
                await failure(error, scope)(scope, receive, noting)
            finally:
                about |= {"request_id": sent[REQUEST_ID]} if sent[REQUEST_ID] else {}
                self.note(scope, sent["status"], about, time.perf_counter() - began)

    def note(self, scope: Scope, status: int, about: dict[str, str], seconds: float) -> None:
        route = route_of(scope)
        self.counters.requests.labels(route, status).inc()
        self.counters.seconds.labels(route).observe(seconds)
        level = log.debug if scope["path"] in QUIET or route.endswith("/status") else log.info
        level("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000), **about)
