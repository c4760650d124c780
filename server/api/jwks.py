"""The public key with which receivers verify webhooks (fal-protocol.md §7)."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from server.api.service import ServiceOf

CACHED = {"Cache-Control": "public, max-age=86400"}

router = APIRouter()


@router.get("/.well-known/jwks.json")
def jwks(service: ServiceOf) -> JSONResponse:
    return JSONResponse(service.signer.jwks(), headers=CACHED)
