"""Job -> the JSON that fal's clients read (fal-protocol.md §2): submit answer, status, result."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from server.queue.job import Job, LogLine

QUEUE_PREFIX = "/queue"
FILE = "file:"
"""A stored picture's `url` in a row: ``file:<id>``, which becomes a real URL only when it is read."""


def application_of(endpoint: str) -> str:
    """``owner/alias`` of an endpoint id: clients drop the rest in status and result URLs (fal-protocol.md §1.1)."""
    return "/".join(endpoint.split("/")[:2])


def urls(job: Job) -> dict[str, str]:
    """The three URLs that fal-client follows verbatim, on the host through which the request came in."""
    response_url = f"{job.base_url}/{application_of(job.endpoint)}/requests/{job.id}"
    return {
        "response_url": response_url,
        "status_url": f"{response_url}/status",
        "cancel_url": f"{response_url}/cancel",
    }


def submitted(job: Job, position: int) -> dict[str, Any]:
    """The answer to a submit. A submit always reads IN_QUEUE, even where the input was refused at once."""
    ids = {"request_id": job.id, "gateway_request_id": job.id}
    return {"status": "IN_QUEUE", **ids, **urls(job), "queue_position": position, "logs": None, "metrics": {}}


def status(job: Job, position: int, lines: Sequence[LogLine] | None) -> dict[str, Any]:
    """A status body; `logs` is always there: a list when asked for (`lines` is not None), else null."""
    body: dict[str, Any] = {"status": job.state, "request_id": job.id, **urls(job)}
    body["logs"] = None if lines is None else [log_entry(line) for line in lines]
    body["metrics"] = {}
    if job.state == "IN_QUEUE":
        body["queue_position"] = position
    if job.state == "COMPLETED":
        body["metrics"] = {"inference_time": job.inference_time or 0.0} | (job.metrics or {})
        body.update(failure(job))
    return body


def failure(job: Job) -> dict[str, str]:
    """`error` and `error_type` of a failed or cancelled job, nothing of a good one."""
    if job.http_status is None or job.http_status < 400:
        return {}
    detail = (job.result or {}).get("detail")
    if isinstance(detail, list) and detail:
        first = detail[0]
        return {"error": str(first.get("msg", "")), "error_type": job.error_type or str(first.get("type", ""))}
    return {"error": str(detail or ""), "error_type": job.error_type or "internal_error"}


def log_entry(line: LogLine) -> dict[str, Any]:
    """One line in fal's form; the timestamp is naive ISO-8601 UTC with microseconds, as in fal's samples."""
    moment = datetime.fromtimestamp(line.timestamp, UTC).replace(tzinfo=None)
    return {
        "timestamp": moment.isoformat(timespec="microseconds"),
        "message": line.message,
        "level": line.level,
        "source": line.source,
        "labels": {},
    }


def result(job: Job) -> dict[str, Any]:
    """The stored body with every picture's URL on the host through which the request came in: the same every time."""
    return with_urls(job.result or {}, job.base_url.removesuffix(QUEUE_PREFIX))


def with_urls(value: Any, origin: str) -> Any:
    """`value` with every ``"url": "file:<id>"`` in it replaced by ``{origin}/files/<id>``."""
    if isinstance(value, list):
        return [with_urls(item, origin) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: rendered(name, item, origin) for name, item in value.items()}


def rendered(name: str, item: Any, origin: str) -> Any:
    if name == "url" and isinstance(item, str) and item.startswith(FILE):
        return f"{origin}/files/{item.removeprefix(FILE)}"
    return with_urls(item, origin)
