"""Realtime: the models here offer none, and say so at once, whatever way a client asks (fal-protocol.md §3)."""

from fastapi import APIRouter
from starlette.datastructures import Headers

from server.errors import NotFound

router = APIRouter()


class NoRealtime(NotFound):
    """Realtime, and HTTP over WebSockets, are not offered here: use subscribe, run, or the queue."""


def wants_websocket(headers: Headers) -> bool:
    """Whether a request is a WebSocket's handshake (RFC 6455 §4.1)."""
    return headers.get("upgrade", "").strip().lower() == "websocket"


@router.post("/tokens")
def tokens() -> None:
    """fal gives out tokens for realtime here. Raises NoRealtime."""
    raise NoRealtime
