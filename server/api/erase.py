"""Deletion of a request, which fal's queue has none of: an extension (docs/decisions/0025-deletion.md)."""

from fastapi import APIRouter
from starlette.responses import Response

from server import bodies
from server.api.queue import applications, is_uuid
from server.api.reply import reply
from server.api.service import GrantOf, ServiceOf
from server.errors import NotFound

router = APIRouter(prefix=bodies.QUEUE_PREFIX)


@router.delete("/{application:path}/requests/{request_id}")
def erase(application: str, request_id: str, grant: GrantOf, service: ServiceOf) -> Response:
    """Cancel, and remove with pictures, logs and webhooks: a key's own requests, with the scope admin anybody's."""
    owner = grant.owner_for("run", "admin")
    whose = None if "admin" in grant.scopes else owner
    job = service.queue.get(request_id, whose) if is_uuid(request_id) else None
    if job is None or application not in applications(service, job.endpoint):
        raise NotFound
    list(service.queue.erase([job.id], service.files.delete))
    return reply(200, {"status": "DELETED"}, job.id)
