"""fal's server-proxy protocol (fal-protocol.md §6): `proxyUrl` of @fal-ai/client may point straight at this server."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from server.hosts import FAL_HOSTS

PROXY_PATH = "/api/fal/proxy"
"""The default route name of @fal-ai/server-proxy."""


class ProxyError(Exception):
    """Invalid request"""


@dataclass(frozen=True)
class Target:
    """Where a request wants to go, after the proxy header was followed. `path` is percent-decoded."""

    host: str
    path: str
    query: bytes
    proxied: bool


def target_of(scope: Scope) -> Target:
    """The host, path and query that a request means.

    ``x-fal-target-url`` counts on the proxy's own path only: fal's official proxy, standing in front of this server,
    forwards that header to ordinary paths, too.

    Raises:
        ProxyError: no target URL on the proxy's path, or one that is not on a fal host.
    """
    headers = Headers(scope=scope)
    if scope["path"].rstrip("/") != PROXY_PATH:
        return Target(headers.get("host", ""), scope["path"], scope["query_string"], proxied=False)
    try:
        url = urlsplit(headers.get("x-fal-target-url", ""))
    except ValueError:
        raise ProxyError from None
    if url.scheme != "https" or url.netloc.lower() not in FAL_HOSTS:
        raise ProxyError
    return Target(url.netloc, unquote(url.path) or "/", url.query.encode(), proxied=True)
