"""Job: one row of the queue, as the server and the worker see it."""

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
"""fal's words; COMPLETED is the only final state, also of failed and cancelled requests (fal-protocol.md §2.2)."""

Cancellation = Literal["CANCELLATION_REQUESTED", "ALREADY_COMPLETED", "NOT_FOUND"]


@dataclass(frozen=True)
class Job:
    """One request. A snapshot: the row may have moved on since it was read.

    Args:
        id: uuid4 in its 36-character form; what fal calls the request id.
        seq: order of arrival; the queue serves by (priority, seq).
        endpoint / owner: the endpoint's id; the name of the API key that submitted it.
        input: the request's body, valid for the endpoint's Input (unless the job was put already finished).
        base_url: ``scheme://host/prefix`` of the submit, no trailing slash.
        priority: 0 normal, 1 low.
        store_io: False: the client wants nothing of its request kept.
        start_timeout_s: seconds after which a job that no worker has started is finished as request_timeout.
        attempt: how often it was claimed; with `worker` the fencing token.
        created_at / started_at / finished_at: unix seconds.
        http_status / result / error_type: the outcome; pictures in `result` have ``"url": "file:<file id>"``.
        inference_time: seconds of prepare and generate.
        metrics: what else the status tells about the outcome.
    """

    id: str
    seq: int
    endpoint: str
    owner: str
    state: State
    input: dict[str, Any]
    base_url: str
    priority: int
    webhook: str | None
    store_io: bool
    start_timeout_s: float | None
    attempt: int
    worker: str | None
    cancel_requested: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    http_status: int | None
    result: dict[str, Any] | None
    error_type: str | None
    inference_time: float | None
    metrics: dict[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """How a job ended: what its result endpoint will answer."""

    http_status: int
    body: dict[str, Any]
    error_type: str | None = None
    inference_time: float | None = None
    metrics: dict[str, Any] | None = None


@dataclass(frozen=True)
class LogLine:
    """One progress line that the client may see. `timestamp`: unix seconds."""

    timestamp: float
    message: str
    level: str = "INFO"
    source: str = "USER"


@dataclass(frozen=True)
class Beat:
    """A heartbeat's answer: whether the job is still this worker's, and whether its client wants it stopped."""

    owned: bool
    cancel: bool


@dataclass(frozen=True)
class Webhook:
    """One row of the outbox: the news that a job is finished, to be told to `url`. `tries`: how often it was sent."""

    id: int
    job_id: str
    url: str
    tries: int


@dataclass(frozen=True)
class WorkerState:
    """What a worker last said about itself. `age_s`: seconds since then; older than the lease means it is gone."""

    name: str
    host: str
    device: str
    state: Literal["loading", "ready", "failed"]
    message: str
    age_s: float


@dataclass(frozen=True)
class Key:
    """An API key's public side. `name` is the owner of what is submitted with it; times in unix seconds."""

    name: str
    created_at: float
    revoked_at: float | None
