"""Job: one row of the queue, as the server and the worker see it."""

from dataclasses import dataclass
from typing import Any, Literal, Self

State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
"""fal's words; COMPLETED is the only final state, also of failed and cancelled requests (fal-protocol.md §2.2)."""

Scope = Literal["run", "read", "admin"]
"""What a key may do: run and upload; read status, results and logs; delete anybody's requests."""

PRIORITIES = ("normal", "low")
"""fal's words; a job's priority is the place here, and the lower one is served first."""

Condition = Literal["loading", "ready", "failed", "quarantined"]
"""How a worker is; quarantined: its GPU failed so often that it is left alone for a while."""

Cancellation = Literal["CANCELLATION_REQUESTED", "ALREADY_COMPLETED", "NOT_FOUND"]


@dataclass(frozen=True)
class Job:
    """One request. A snapshot: the row may have moved on since it was read.

    Args:
        id: uuid4 in its 36-character form; what fal calls the request id.
        seq: order of arrival; the queue serves by (priority, turn, seq).
        endpoint / owner: the endpoint's id; the name of the API key that submitted it.
        input: the request's body, valid for the endpoint's Input (unless the job was put already finished).
        base_url: ``scheme://host/prefix`` of the submit, no trailing slash.
        priority: the place in PRIORITIES.
        store_io: False: the client wants nothing of its request kept.
        start_timeout_s: seconds after which a job that no worker has started is finished as request_timeout.
        attempt: how often it was claimed; with `worker` the fencing token.
        spared: how many of these were given back, and do not count against max_attempts.
        created_at / started_at / finished_at: unix seconds.
        http_status / result / error_type: the outcome; pictures in `result` have ``"url": "file:<file id>"``.
        inference_time: seconds of prepare and generate.
        metrics: what else the status tells about the outcome.
        no_retry: whether the job ends when its worker dies, instead of being run again.
        lifecycle: what the client wants for its result files: server.lifecycle.Lifecycle; None: nothing special.
        turn: its key's turn when it was submitted: of equal priority the lowest is served first.
        batch_key: jobs of one endpoint and batch key may be generated together; empty: only alone.
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
    spared: int
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
    no_retry: bool
    lifecycle: dict[str, Any] | None
    turn: int
    batch_key: str


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

    @classmethod
    def of(cls, cancel: bool | None) -> Self:
        """From the row's wish to cancel; None: no such row, the job was given to someone else."""
        return cls(owned=cancel is not None, cancel=bool(cancel))


@dataclass(frozen=True)
class Webhook:
    """One row of the outbox: the news that a job is finished, to be told to `url`.

    Args:
        tries: how often it was sent; the fencing token.
        host: the receiver, as ``name:port``.
        spared: how many of these were before an operator's replay, and do not count for the back-off.
    """

    id: int
    job_id: str
    url: str
    tries: int
    spared: int
    host: str


@dataclass(frozen=True)
class WorkerState:
    """What a worker last said about itself. `age_s`: seconds since then; older than the lease means it is gone."""

    name: str
    host: str
    device: str
    state: Condition
    message: str
    age_s: float


@dataclass(frozen=True)
class Key:
    """An API key's public side.

    Args:
        id: what stands before the colon in the key itself (``id:secret``).
        name: the owner of what is submitted with it; several keys may share one.
        scopes: what it may do.
        created_at / used_at / revoked_at: unix seconds; `used_at` is exact to a minute.
    """

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: float
    used_at: float | None
    revoked_at: float | None
