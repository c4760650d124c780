"""The entrance: whatever host, prefix or proxy a request came through, behind it there is one namespace of paths."""

import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.observe import failure
from server.api.proxy import ProxyError, target_of
from server.api.realtime import NoRealtime, wants_websocket
from server.bodies import QUEUE_PREFIX
from server.errors import BadRequest
from server.hosts import AUTHORITY, surface_of

OWN_ROOTS = ("/api/", "/web/", "/files/", "/storage/", "/health", "/ready", "/metrics", "/.well-known/")
"""Served alike on every host; everything else on a queue host belongs to the queue."""

ADDRESS = "veraicon.address"


@dataclass(frozen=True)
class Address:
    """How the client reached this server.

    Args:
        origin: ``scheme://host[:port]`` that the client can follow; files are at ``{origin}/files/…``.
        path: as the client wrote it.
        base_url: `origin` and the queue's prefix, if there is one: what a job's URLs are built from.
    """

    origin: str
    base_url: str
    path: str


def address_of(connection: HTTPConnection) -> Address:
    """The address that the Entrance found for this request."""
    return connection.scope[ADDRESS]


def is_clear(hosts: list[str]) -> bool:
    """Whether these Host headers name one host, or none: it becomes part of every URL that we give out."""
    return not hosts or (len(hosts) == 1 and AUTHORITY.fullmatch(hosts[0]) is not None)


class Entrance:
    """ASGI middleware: rewrites the path by host, drops trailing and double slashes (fal never redirects)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            target = target_of(scope)
        except ProxyError:
            await PlainTextResponse("Invalid request", status_code=400)(scope, receive, send)
            return
        if not is_clear(Headers(scope=scope).getlist("host")):
            await failure(BadRequest("The Host header is no host name with a port."), scope)(scope, receive, send)
            return
        path = re.sub("/{2,}", "/", target.path).rstrip("/") or "/"
        on_queue_host = surface_of(target.host) == "queue"
        if on_queue_host and path != "/" and not path.startswith(OWN_ROOTS):
            path = QUEUE_PREFIX + path
        # A browser behind the proxy route reaches only this host, never fal's names: give it URLs that it can follow.
        origin = f"{scope['scheme']}://{Headers(scope=scope).get('host', target.host)}"
        queued = path.startswith(f"{QUEUE_PREFIX}/") and (target.proxied or not on_queue_host)
        address = Address(origin, origin + QUEUE_PREFIX if queued else origin, target.path)
        rewritten = {"path": path, "raw_path": path.encode(), "query_string": target.query, ADDRESS: address}
        scope = {**scope, **rewritten}
        inner = failure(NoRealtime(), scope) if wants_websocket(Headers(scope=scope)) else self.app
        await inner(scope, receive, send)
