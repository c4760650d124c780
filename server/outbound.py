"""Outbound: which hosts this server may talk to for its clients (pictures, webhooks); the guard against SSRF."""

import asyncio
import ipaddress
import socket
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from server.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_URL = 2048
"""fal's own limit (fal-protocol.md §4.2)."""

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Refused(Exception):
    """The URL may not be opened; the message says why, for the client."""


@dataclass(frozen=True)
class Outbound:
    """What the setting `outbound` allows.

    Args:
        public: addresses that are reachable from anywhere on the Internet.
        networks / hosts: private exceptions that the operator named.
        ca: PEM file of authorities that are trusted besides the public ones.
    """

    public: bool
    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    ca: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Outbound":
        """What these settings allow."""
        return replace(cls.parse(settings.outbound), ca=settings.outbound_ca)

    @classmethod
    def parse(cls, text: str) -> "Outbound":
        """From ``none`` or ``public[,CIDR or host name]…``. Raises ValueError naming the part that is neither."""
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        if words == ["none"]:
            return cls(public=False)
        networks, hosts = [], set()
        for word in words:
            try:
                networks.append(ipaddress.ip_network(word))
            except ValueError:
                if "/" in word or "none" in words:
                    raise ValueError(f"outbound: {word!r} is neither public, none, a CIDR nor a host name") from None
                hosts.add(word.rstrip("."))
        return cls("public" in hosts, tuple(networks), frozenset(hosts - {"public"}))

    def allows(self, host: str, address: Address) -> bool:
        if host.lower().rstrip(".") in self.hosts:
            return True
        reached = {address, *_embedded(address)}
        if any(address in network for network in self.networks):
            return True
        return self.public and all(_is_public(one) for one in reached)

    def client(self, **options: Any) -> httpx2.AsyncClient:
        """A client for one conversation. No proxy from the environment: it would resolve names again, unchecked."""
        return httpx2.AsyncClient(verify=self.context(), trust_env=False, timeout=None, **options)

    def context(self) -> ssl.SSLContext:
        """Which certificates are believed. Raises ValueError naming the file of authorities if it is none."""
        context = httpx2.create_ssl_context(trust_env=False)
        if self.ca is None:
            return context
        try:
            context.load_verify_locations(self.ca)
        except OSError as error:
            raise ValueError(f"outbound_ca: {self.ca} cannot be read as PEM certificates ({error.strerror})") from None
        return context

    async def resolve(self, url: httpx2.URL) -> Address:
        """An address of the URL's host that may be connected to, after all of its addresses were checked.

        Raises:
            Refused: not http(s), credentials in the URL, an unknown name, or any address that is not allowed.
        """
        if url.scheme not in ("http", "https"):
            raise Refused("Only http and https URLs and data URIs can be opened.")
        if url.userinfo:
            raise Refused("The URL must not contain a user name or password.")
        if not self.public and not self.networks and not self.hosts:
            raise Refused("This server opens no URLs: upload the file to it, or send it as a data URI.")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port or 0, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise Refused("The URL's host name could not be resolved.") from None
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        if not addresses or not all(self.allows(url.host, address) for address in addresses):
            # The same words for every such address: the answer must not map the private network.
            raise Refused("The URL's host is not one that this server may open; its operator can allow it (outbound).")
        return addresses[0]


def check(outbound: Outbound, text: str) -> None:
    """Raise Refused for a URL that could not be opened now: to be called before a webhook is accepted."""
    asyncio.run(outbound.resolve(parse_url(text)))


def parse_url(text: str) -> httpx2.URL:
    """Raises Refused for what is no absolute URL."""
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        raise Refused("This is not a valid URL.") from None
    if len(text) > LONGEST_URL:
        raise Refused(f"The URL is longer than {LONGEST_URL} characters.")
    if not url.host or (url.port is not None and not 0 < url.port < 65536):
        raise Refused("This is not a valid URL.")
    return url


def pinned(url: httpx2.URL, address: Address) -> dict[str, Any]:
    """Arguments of an httpx2 request that goes to exactly this address, so that no second look-up can differ.

    TLS still verifies the certificate against the name in the URL.
    """
    host = url.netloc.decode("ascii")
    name = {"sni_hostname": url.host} if url.scheme == "https" else {}
    return {"url": url.copy_with(host=str(address)), "headers": {"Host": host}, "extensions": name}


def _is_public(address: Address) -> bool:
    # Site-local addresses (fec0::/10) are deprecated, not private, for the standard library.
    return address.is_global and not address.is_multicast and not getattr(address, "is_site_local", False)


def _embedded(address: Address) -> list[Address]:
    """IPv4 addresses that an IPv6 one leads to: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    inner: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in inner if one is not None]
