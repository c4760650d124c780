"""fal's upload protocols and the files themselves (fal-protocol.md §4.1, whose letters A to E are used here)."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from server.api.entrance import address_of
from server.api.service import Caller, JsonBody, ServiceOf, UploadBody, check_size
from server.auth import UNKNOWN_KEY
from server.errors import BadRequest, NotFound, Unauthorized
from server.files import DEFAULT_TYPE, FileMissing, StoredFile, new_id
from server.tickets import LIFE_S

ANY_FILE = "upload"
"""Subject of the ticket that Python clients get for new files (protocols C and D)."""
SHOWN_INLINE = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif")
"""Everything else is a download: an uploaded page must not run as this server's."""
MOST_PARTS = 10_000

router = APIRouter()


@router.post("/storage/upload/initiate")
@router.post("/storage/upload/initiate-multipart")
def initiate(request: Request, _owner: Caller, body: JsonBody, service: ServiceOf) -> dict[str, str]:
    """A, B, E: where to PUT the bytes, and the URL that the file will then have."""
    file_id = new_id(text_of(body, "content_type") or DEFAULT_TYPE, text_of(body, "file_name"))
    url = url_of(request, file_id)
    return {"file_url": url, "upload_url": f"{url}?ticket={service.tickets.issue(file_id)}"}


@router.post("/storage/auth/token")
def token(request: Request, _owner: Caller, service: ServiceOf) -> dict[str, str]:
    """C, D: permission to upload. Python 3.10 parses the offset ``+00:00``, but not ``Z``."""
    ends = datetime.now(UTC) + timedelta(seconds=LIFE_S)
    return {
        "token": service.tickets.issue(ANY_FILE),
        "token_type": "Bearer",
        "base_url": address_of(request).origin,
        "expires_at": ends.isoformat(timespec="seconds"),
    }


async def may_upload(request: Request, service: ServiceOf) -> None:
    """Raises Unauthorized without the token of protocols C and D."""
    ticket = request.headers.get("authorization", "").strip().partition(" ")[2]
    if not service.tickets.admits(ticket.strip(), ANY_FILE):
        raise Unauthorized(UNKNOWN_KEY)


MayUpload = Annotated[None, Depends(may_upload)]


@router.post("/files/upload")
def upload(request: Request, _may: MayUpload, body: UploadBody, service: ServiceOf) -> dict[str, str]:
    """C: the whole file at once."""
    headers = request.headers
    stored = service.files.save(body, headers.get("content-type") or DEFAULT_TYPE, headers.get("x-fal-file-name"))
    return {"access_url": url_of(request, stored.id)}


@router.post("/files/upload/multipart")
def begin_parts(request: Request, _may: MayUpload, service: ServiceOf) -> dict[str, str]:
    """D: the file's URL, and the ticket under which its parts are sent."""
    headers = request.headers
    file_id = new_id(headers.get("content-type") or DEFAULT_TYPE, headers.get("x-fal-file-name"))
    return {"access_url": url_of(request, file_id), "uploadId": service.tickets.issue(file_id)}


async def may_write(file_id: str, service: ServiceOf, ticket: str = "", upload_id: str = "") -> None:
    """Raises Unauthorized without this file's ticket, from the query (A, B, E) or the path (D)."""
    if not service.tickets.admits(ticket or upload_id, file_id):
        raise Unauthorized("The upload URL is not valid, or not any more; ask for a new one.")


MayWrite = Annotated[None, Depends(may_write)]


@router.put("/files/{file_id}")
def put_file(file_id: str, _may: MayWrite, body: UploadBody, service: ServiceOf) -> Response:
    """A, E: the bytes; no key, the ticket in the URL is enough."""
    service.files.save_as(file_id, body)
    return Response(headers={"ETag": etag_of(body)})


@router.put("/files/{file_id}/multipart/{upload_id}/{number}")
@router.put("/files/{file_id}/{number}")
def put_part(file_id: str, number: int, _may: MayWrite, body: UploadBody, service: ServiceOf) -> JSONResponse:
    """B, D: one part, in any order. JavaScript reads the body, Python the header."""
    if not 1 <= number <= MOST_PARTS:
        raise BadRequest(f"Part numbers go from 1 to {MOST_PARTS}.")
    service.files.save_as(part_id(file_id, number), body)
    etag = etag_of(body)
    return JSONResponse({"partNumber": number, "etag": etag}, headers={"ETag": etag})


@router.post("/files/{file_id}/multipart/{upload_id}/complete")
@router.post("/files/{file_id}/complete")
def complete(file_id: str, _may: MayWrite, body: JsonBody, service: ServiceOf) -> dict[str, Any]:
    """B, D: join the parts by number, whatever their order in the list. Raises BadRequest for a missing part."""
    numbers = sorted(part_number(part) for part in parts_of(body))
    try:
        sizes = [service.files.stat(part_id(file_id, number)).size for number in numbers]
        check_size(sum(sizes), service.settings.max_upload_mb)
        data = b"".join(service.files.read(part_id(file_id, number)) for number in numbers)
    except FileMissing:
        raise BadRequest("A part of the upload is missing; send it again.") from None
    service.files.save_as(file_id, data)
    return {"size": len(data)}


@router.api_route("/files/{file_id}", methods=["GET", "HEAD"])
def get_file(request: Request, file_id: str, service: ServiceOf) -> Response:
    """A file, to whoever has its unguessable URL; one byte range at most."""
    try:
        stored = service.files.stat(file_id)
    except FileMissing:
        raise NotFound("File not found") from None
    span = byte_range(request.headers.get("range"), stored.size)
    start, length = span or (0, stored.size)
    headers = file_headers(stored) | {"Content-Length": str(length)}
    if span:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{stored.size}"
    chunks = iter(()) if request.method == "HEAD" else service.files.stream(file_id, start, length)
    return StreamingResponse(chunks, 206 if span else 200, headers, stored.content_type)


def file_headers(stored: StoredFile) -> dict[str, str]:
    """Never sniffed, never active; unchanging under its id."""
    kind = "inline" if stored.content_type in SHOWN_INLINE else "attachment"
    return {
        "Accept-Ranges": "bytes",
        "Cache-Control": "public, max-age=31536000, immutable",
        "Content-Disposition": f'{kind}; filename="{stored.file_name}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
    }


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, length) of a single satisfiable range (RFC 9110 §14.2); None: the whole file, as is always allowed."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (header or "").strip())
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    return (start, end - start) if start < end else None


def url_of(request: Request, file_id: str) -> str:
    return f"{address_of(request).origin}/files/{file_id}"


def text_of(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None


def parts_of(body: dict[str, Any]) -> list[Any]:
    """Raises BadRequest unless `parts` is a list with something in it."""
    parts = body.get("parts")
    if not isinstance(parts, list) or not parts:
        raise BadRequest("`parts` must be a list of the parts that were sent.")
    return parts


def part_number(part: Any) -> int:
    """Raises BadRequest unless `part` is an object with a whole `partNumber`."""
    number = part.get("partNumber") if isinstance(part, dict) else None
    if not isinstance(number, int):
        raise BadRequest("Each of `parts` must have a whole number `partNumber`.")
    return number


def part_id(file_id: str, number: int) -> str:
    """The id under which a part waits: nobody guesses it who does not know the file's own."""
    return f"{hashlib.sha256(f'{file_id}/{number}'.encode()).hexdigest()[:32]}_part.bin"


def etag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'
