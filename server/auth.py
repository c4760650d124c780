"""API keys: who is asking. Random 256-bit keys, kept only as SHA-256 (they need no slow hash), owned by a name."""

import hashlib
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args
from urllib.parse import urlsplit

from server.errors import RequestError, Unauthorized
from server.hosts import FAL_HOSTS, host_name, is_loopback
from server.queue.job import Scope
from server.queue.keyring import Keyring

LOCAL_OWNER = "local"
"""Whose jobs they are while the server has no keys and listens on loopback only."""

SCHEMES = ("key", "bearer")
"""fal documents `Key`; home-made clients send `Bearer` with the same key (fal-protocol.md §5)."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
USUAL_SCOPES: tuple[Scope, ...] = ("run", "read")
"""What a fal client needs: of a key for which nothing else was said."""

UNKNOWN_KEY = "No user found for Key ID and Secret"
"""fal's own words (fal-protocol.md §5)."""


class Forbidden(RequestError):
    """This server has no API keys and answers only its own machine. Make one with `veraicon keys create NAME`."""

    http_status, error_type = 403, "forbidden"


@dataclass(frozen=True)
class Grant:
    """In whose name a request acts, and what it may do."""

    owner: str
    scopes: tuple[Scope, ...]

    def owner_for(self, *sufficient: Scope) -> str:
        """The owner, if one of these scopes is granted. Raises Forbidden naming what is missing."""
        if not set(sufficient) & set(self.scopes):
            missing = " or ".join(f"`{scope}`" for scope in sufficient)
            raise Forbidden(
                f"This API key may {' and '.join(self.scopes)}; this request needs the scope {missing}. "
                f"Make a key that has it: `veraicon keys create NAME --scope {sufficient[0]}`."
            )
        return self.owner


def new_key() -> str:
    """A key in fal's form ``id:secret``: FAL_KEY as a whole, or FAL_KEY_ID and FAL_KEY_SECRET."""
    return f"{uuid.uuid4()}:{secrets.token_hex(32)}"


def key_hash(key: str) -> str:
    """What is stored of a key: its SHA-256, hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key of an Authorization header, or None without one that we can read."""
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    return key.strip() or None if scheme.lower() in SCHEMES else None


def authenticate(keyring: Keyring, headers: Mapping[str, str]) -> Grant:
    """In whose name this request acts, and what it may do.

    The lookup is by hash, so its timing says nothing about a key. Without any key in the database the server is open,
    but only to this machine: `veraicon` refuses to listen elsewhere, and a web page of another site is turned away.

    Raises:
        Unauthorized: 401 without a valid key.
        Forbidden: 403 for a foreign Host or Origin on a server without keys.
    """
    secret = key_in(headers)
    key = keyring.find(key_hash(secret)) if secret else None
    if key is not None:
        return Grant(key.name, key.scopes)
    if keyring.any_made():
        raise Unauthorized(UNKNOWN_KEY)
    refuse_foreign(headers)
    return Grant(LOCAL_OWNER, SCOPES)


def refuse_foreign(headers: Mapping[str, str]) -> None:
    """Keep a server without keys to this machine: no DNS rebinding (Host), no other site's page (Origin).

    Raises:
        Forbidden: 403.
    """
    origin = headers.get("origin")
    # The one that a page's own request names is checked, too: a page may write X-Forwarded-Host, but not Host.
    hosts = [headers.get("host", ""), *([headers["x-asked-host"]] if "x-asked-host" in headers else [])]
    known_hosts = all(is_loopback(host) or host_name(host) in FAL_HOSTS for host in hosts)
    if known_hosts and (origin is None or is_loopback(host_of_origin(origin))):
        return
    raise Forbidden


def host_of_origin(origin: str) -> str:
    """Host and port of an Origin header; "" for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
