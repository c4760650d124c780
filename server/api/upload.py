"""Upload: the bytes of a file to come are stored once, whoever dies or is asked again on the way."""

import time
from collections.abc import Callable
from functools import partial

from server.api.service import Service
from server.errors import NotFound, RequestError
from server.files import FileMissing


class UploadComplete(RequestError):
    """This upload is complete, and a file is never changed: ask for a new upload URL."""

    http_status, error_type = 409, "upload_complete"


class UploadUnderWay(RequestError):
    """Another request is storing this upload's bytes, or died of it: send it again in half a minute at the latest."""

    http_status, error_type, retryable = 409, "upload_under_way", True


def store_once(service: Service, file_id: str, size: int, write: Callable[[], object]) -> None:
    """Let `write` store an upload's bytes, `size` of them; of several at the same time one does.

    Raises:
        UploadComplete, UploadUnderWay: another one has stored them, or does.
        NotFound: the upload never began, or its time is over.
        QuotaExceeded: the upload stays unfinished.
    """
    ledger, at = service.queue.ledger, time.time()
    claim = partial(ledger.claim, file_id, size, service.settings.max_upload_total_mb, at)
    outcome = claim()
    if outcome == "taken":
        if is_stored(service, file_id):
            raise UploadComplete
        outcome = claim(missing=True)
    match outcome:
        case "unknown":
            raise NotFound("Upload not found")
        case "taken":
            raise UploadUnderWay
        case "yours":
            try:
                write()
            except BaseException:
                ledger.reopen(file_id, at)
                raise


def is_stored(service: Service, file_id: str, data: bytes | None = None) -> bool:
    """Whether the file is there; with these bytes, if any are given."""
    try:
        stored = service.files.stat(file_id)
        return data is None or (stored.size == len(data) and service.files.read(file_id) == data)
    except FileMissing:
        return False
