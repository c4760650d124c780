"""Forwarded: what a reverse proxy in front says of the client, believed from trusted proxies alone."""

import ipaddress
from dataclasses import dataclass
from typing import Self

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

ASKED = b"x-asked-host"
"""The Host that the nearest peer named, kept beside the forwarded one."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Trusted:
    """The proxies that are believed; `networks` None: every peer."""

    networks: tuple[Network, ...] | None

    @classmethod
    def of(cls, text: str) -> Self:
        """From the setting trusted_proxies. Raises ValueError for what is neither address, CIDR nor ``*``."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        return cls(None if "*" in words else tuple(ipaddress.ip_network(word) for word in words))

    def __contains__(self, peer: str) -> bool:
        if self.networks is None:
            return True
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        plain = getattr(address, "ipv4_mapped", None) or address
        return any(plain in network for network in self.networks)


class Forwarded:
    """ASGI middleware, the outermost: sets scheme, client and Host as the client meant them.

    The last ``X-Forwarded-For`` entry that is no trusted proxy is the client: whatever stands before it, the client may
    have written itself. From other peers the headers mean nothing.
    """

    def __init__(self, app: ASGIApp, trusted: Trusted) -> None:
        self.app, self.trusted = app, trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"} and scope["client"] and scope["client"][0] in self.trusted:
            scope = {**scope, **self.told(Headers(scope=scope), scope)}
        await self.app(scope, receive, send)

    def told(self, headers: Headers, scope: Scope) -> Scope:
        changed: Scope = {}
        scheme = last(headers.get("x-forwarded-proto", "")).lower()
        if scheme in {"http", "https"}:
            changed["scheme"] = scheme if scope["type"] == "http" else scheme.replace("http", "ws")
        if host := last(headers.get("x-forwarded-host", "")):
            others = [(name, value) for name, value in scope["headers"] if name not in {b"host", ASKED}]
            asked = headers.get("host", "").encode("latin-1")
            changed["headers"] = [(b"host", host.encode("latin-1")), (ASKED, asked), *others]
        hops = [hop.strip() for hop in ",".join(headers.getlist("x-forwarded-for")).split(",") if hop.strip()]
        if hops:
            changed["client"] = (next((hop for hop in reversed(hops) if hop not in self.trusted), hops[0]), 0)
        return changed


def last(value: str) -> str:
    """What the nearest proxy added."""
    return value.rpartition(",")[2].strip()
