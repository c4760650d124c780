"""fal's upload protocols and the files themselves (fal-protocol.md §4.1, whose letters A to E are used here)."""

import hashlib
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from server.api.entrance import address_of
from server.api.service import Caller, JsonBody, Service, ServiceOf, UploadBody, check_size, reader
from server.api.upload import UploadComplete, is_stored, store_once
from server.auth import UNKNOWN_KEY
from server.errors import BadRequest, NotFound, RequestError, Unauthorized
from server.files import DEFAULT_TYPE, FileMissing, new_id
from server.lifecycle import UPLOAD_HEADERS, Lifecycle, decision_for
from server.queue.ledger import Entry
from server.tickets import LIFE_S

MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}", re.IGNORECASE)
"""RFC 6838 §4.2, without parameters."""
SHOWN_INLINE = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif")
"""Everything else is a download: an uploaded page must not run as this server's."""
MOST_PARTS = 10_000
A_YEAR_S = 31_536_000

router = APIRouter()


class Forbidden(RequestError):
    """The file's owner lets nobody else read it."""

    http_status, error_type = 403, "forbidden"


@router.post("/storage/upload/initiate")
@router.post("/storage/upload/initiate-multipart")
def initiate(request: Request, owner: Caller, body: JsonBody, service: ServiceOf) -> dict[str, str]:
    """A, B, E: where to PUT the bytes, and the URL that the file will then have. Raises BadRequest, QuotaExceeded."""
    content_type = text_of(body, "content_type") or DEFAULT_TYPE
    file_id = new_id(content_type, text_of(body, "file_name"))
    begin(request, service, owner, file_id, content_type)
    url = url_of(request, file_id)
    return {"file_url": url, "upload_url": f"{url}?ticket={service.tickets.issue(file_id)}"}


@router.post("/storage/auth/token")
def token(request: Request, owner: Caller, service: ServiceOf) -> dict[str, str]:
    """C, D: permission to upload. Python 3.10 parses the offset ``+00:00``, but not ``Z``."""
    ends = datetime.now(UTC) + timedelta(seconds=LIFE_S)
    return {
        "token": service.tickets.issue_to(owner),
        "token_type": "Bearer",
        "base_url": address_of(request).origin,
        "expires_at": ends.isoformat(timespec="seconds"),
    }


async def uploader(request: Request, service: ServiceOf) -> str:
    """The owner whom the token of protocols C and D names. Raises Unauthorized without a valid one."""
    ticket = request.headers.get("authorization", "").strip().partition(" ")[2]
    owner = service.tickets.owner_of(ticket.strip())
    if owner is None:
        raise Unauthorized(UNKNOWN_KEY)
    return owner


Uploader = Annotated[str, Depends(uploader)]


@router.post("/files/upload")
def upload(request: Request, owner: Uploader, body: UploadBody, service: ServiceOf) -> dict[str, str]:
    """C: the whole file at once."""
    file_id = announced_id(request)
    begin(request, service, owner, file_id, announced_type(request))
    store_once(service, file_id, len(body), lambda: service.files.save_as(file_id, body))
    return {"access_url": url_of(request, file_id)}


@router.post("/files/upload/multipart")
def begin_parts(request: Request, owner: Uploader, service: ServiceOf) -> dict[str, str]:
    """D: the file's URL, and the ticket under which its parts are sent."""
    file_id = announced_id(request)
    begin(request, service, owner, file_id, announced_type(request))
    return {"access_url": url_of(request, file_id), "uploadId": service.tickets.issue(file_id)}


def announced_id(request: Request) -> str:
    return new_id(announced_type(request), request.headers.get("x-fal-file-name"))


def announced_type(request: Request) -> str:
    return request.headers.get("content-type") or DEFAULT_TYPE


def begin(request: Request, service: Service, owner: str, file_id: str, content_type: str) -> None:
    """Enter an upload in the ledger. Raises BadRequest for a bad lifecycle, QuotaExceeded when there is no room."""
    named = content_type.strip() if MEDIA_TYPE.fullmatch(content_type.strip()) else None
    wish = Lifecycle.of(request.headers, UPLOAD_HEADERS) or Lifecycle()
    service.queue.ledger.check_room(owner, 0, service.settings.max_upload_total_mb)
    service.queue.ledger.begin(file_id, owner, wish.kept_s(service.settings.keep_results_h * 3600), wish.acl, named)


async def may_write(file_id: str, service: ServiceOf, ticket: str = "", upload_id: str = "") -> None:
    """Raises Unauthorized without this file's ticket, from the query (A, B, E) or the path (D)."""
    if not service.tickets.admits(ticket or upload_id, file_id):
        raise Unauthorized("The upload URL is not valid, or not any more; ask for a new one.")


MayWrite = Annotated[None, Depends(may_write)]


@router.put("/files/{file_id}")
def put_file(file_id: str, _may: MayWrite, body: UploadBody, service: ServiceOf) -> Response:
    """A, E: the bytes; no key, the ticket in the URL is enough. The same bytes once more get the same answer."""
    try:
        store_once(service, file_id, len(body), lambda: service.files.save_as(file_id, body))
    except UploadComplete:
        if not is_stored(service, file_id, body):
            raise
    return Response(headers={"ETag": etag_of(body)})


@router.put("/files/{file_id}/multipart/{upload_id}/{number}")
@router.put("/files/{file_id}/{number}")
def put_part(file_id: str, number: int, _may: MayWrite, body: UploadBody, service: ServiceOf) -> JSONResponse:
    """B, D: one part, in any order, also again. JavaScript reads the body, Python the header."""
    if not 1 <= number <= MOST_PARTS:
        raise BadRequest(f"Part numbers go from 1 to {MOST_PARTS}.")
    entry = entry_of(service, file_id)
    if entry.size is not None:
        raise UploadComplete
    total = len(body) + sum(size for other, size in service.files.parts(file_id).items() if other != number)
    check_size(total, service.settings.max_upload_mb)
    service.queue.ledger.check_room(entry.owner, len(body), service.settings.max_upload_total_mb)
    service.files.save_part(file_id, number, body)
    service.queue.ledger.note_received(file_id, sum(service.files.parts(file_id).values()))
    etag = etag_of(body)
    return JSONResponse({"partNumber": number, "etag": etag}, headers={"ETag": etag})


@router.post("/files/{file_id}/multipart/{upload_id}/complete")
@router.post("/files/{file_id}/complete")
def complete(file_id: str, _may: MayWrite, body: JsonBody, service: ServiceOf) -> dict[str, Any]:
    """B, D: join the parts by number, whatever their order in the list; asked again, say the same again.

    Raises BadRequest for a missing part.
    """
    numbers = sorted({part_number(part) for part in parts_of(body)})
    entry = entry_of(service, file_id)
    if entry.size is not None and is_stored(service, file_id):
        return {"size": entry.size}
    sizes = service.files.parts(file_id)
    if not set(numbers) <= sizes.keys():
        raise BadRequest("A part of the upload is missing; send it again.")
    size = sum(sizes[number] for number in numbers)
    check_size(size, service.settings.max_upload_mb)
    store_once(service, file_id, size, lambda: service.files.join(file_id, numbers))
    service.files.delete_parts(file_id)
    return {"size": size}


def entry_of(service: Service, file_id: str) -> Entry:
    """Raises NotFound for an upload that never began, or whose time is over."""
    entry = service.queue.ledger.find(file_id)
    if entry is None or entry.expires_at <= time.time():
        raise NotFound("Upload not found")
    return entry


@router.api_route("/files/{file_id}", methods=["GET", "HEAD"])
def get_file(request: Request, file_id: str, service: ServiceOf) -> Response:
    """A file, to whoever has its unguessable URL and is not shut out by its lifecycle; one byte range at most."""
    entry = service.queue.ledger.find(file_id)
    check_readable(request, service, entry)
    try:
        stored = service.files.stat(file_id)
    except FileMissing:
        raise NotFound("File not found") from None
    span = byte_range(request.headers.get("range"), stored.size)
    start, length = span or (0, stored.size)
    media_type = (entry and entry.content_type) or stored.content_type
    headers = file_headers(stored.file_name, media_type, entry) | {"Content-Length": str(length)}
    if span:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{stored.size}"
    chunks = iter(()) if request.method == "HEAD" else service.files.stream(file_id, start, length)
    return StreamingResponse(chunks, 206 if span else 200, headers, media_type)


def check_readable(request: Request, service: Service, entry: Entry | None) -> None:
    """Raises NotFound when the file's time is over or it is hidden from this reader, Forbidden when it says so."""
    if entry is None:
        return
    decision = decision_for(entry.acl, entry.owner, reader_of(request, service) if entry.acl else None)
    if entry.expires_at <= time.time() or decision == "hide":
        raise NotFound("File not found")
    if decision == "forbid":
        raise Forbidden


def reader_of(request: Request, service: Service) -> str | None:
    """Whose key came with a request that needs none; None without a valid one."""
    try:
        return reader(request, service)
    except RequestError:
        return None


def file_headers(file_name: str, media_type: str, entry: Entry | None) -> dict[str, str]:
    """Never sniffed, never active; unchanging under its id, and kept by no cache beyond its end."""
    kind = "inline" if media_type in SHOWN_INLINE else "attachment"
    kept_s = min(A_YEAR_S, int(entry.expires_at - time.time())) if entry else A_YEAR_S
    shared = "private" if entry and entry.acl else "public"
    return {
        "Accept-Ranges": "bytes",
        "Cache-Control": f"{shared}, max-age={kept_s}, immutable",
        "Content-Disposition": f'{kind}; filename="{file_name}"',
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


def etag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'
