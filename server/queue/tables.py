"""The tables (SQLAlchemy Core), the same on SQLite and PostgreSQL. Changed only through migrations/."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()

_serial = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY counts by itself on SQLite

jobs = Table(
    "jobs",
    metadata,
    Column("seq", _serial, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("endpoint", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("state", String(11), nullable=False),
    Column("input", JSON, nullable=False),
    Column("base_url", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("webhook", Text),
    # False: the client wants its payload kept no longer than its delivery takes (X-Fal-Store-IO: 0).
    Column("store_io", Boolean, nullable=False, server_default=text("true")),
    Column("start_timeout_s", Float),
    Column("attempt", Integer, nullable=False, server_default="0"),
    # Attempts that a draining worker gave back: they move the fence but do not count against max_attempts.
    Column("spared", Integer, nullable=False, server_default="0"),
    Column("worker", Text),
    # Waiting: when the start timeout passes; running: when the lease expires. In seconds of the clock named beside it.
    Column("deadline", Float),
    Column("clock", Text),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("http_status", Integer),
    Column("result", JSON(none_as_null=True)),
    Column("error_type", Text),
    Column("inference_time", Float),
    Column("metrics", JSON(none_as_null=True)),
    # True: the client wants no second try when its worker dies (X-Fal-No-Retry).
    Column("no_retry", Boolean, nullable=False, server_default=text("false")),
    # What the client wants for the files that the job makes: server.lifecycle.Lifecycle; NULL: nothing special.
    Column("lifecycle", JSON(none_as_null=True)),
    # Keys take turns: of equal priority the lowest turn comes first (server/queue/turns.py).
    Column("turn", BigInteger, nullable=False, server_default="0"),
    # What requests must have in common to be generated together, as far as a submit tells; '': only alone.
    Column("batch_key", Text, nullable=False, server_default=""),
    # The client's own name for this submit, and the hash of what it sent with it.
    Column("idempotency_key", Text),
    Column("body_hash", String(64)),
    # Ids of files that its worker is writing: swept when the worker dies before the result is stored.
    Column("drafts", JSON(none_as_null=True)),
    sqlite_autoincrement=True,  # a pruned job's seq is never given out again
)


def _partial(name: str, where: str, *columns: str, unique: bool = False) -> None:
    """One small index per question, so that finished jobs weigh nothing on the hot path."""
    condition = text(where)
    Index(
        name, *(jobs.c[column] for column in columns), unique=unique, postgresql_where=condition, sqlite_where=condition
    )


_partial("jobs_waiting", "state = 'IN_QUEUE'", "priority", "turn", "seq")
_partial("jobs_of_endpoint", "state = 'IN_QUEUE'", "endpoint", "priority", "turn", "seq")
_partial("jobs_alike", "state = 'IN_QUEUE'", "endpoint", "batch_key", "priority", "turn", "seq")
_partial("jobs_running", "state = 'IN_PROGRESS'", "worker")
_partial("jobs_due", "deadline IS NOT NULL", "clock", "deadline")
_partial("jobs_finished", "state = 'COMPLETED'", "finished_at")
_partial("jobs_unfinished", "state <> 'COMPLETED'", "owner", "endpoint", "priority", "turn")
_partial("jobs_idempotency", "idempotency_key IS NOT NULL", "owner", "idempotency_key", unique=True)

logs = Table(
    "logs",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("job_id", String(36), nullable=False, index=True),
    Column("timestamp", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("level", Text, nullable=False),
    Column("source", Text, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("job_id", String(36), nullable=False, index=True),
    Column("url", Text, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    # When to send next, in seconds of the clock named beside it; NULL: delivered or given up.
    Column("deadline", Float, index=True),
    Column("clock", Text),
    Column("last_error", Text),
    # Tries before the latest replay: they move the fence but do not count for the back-off.
    Column("spared", Integer, nullable=False, server_default="0"),
    # Host and port of the URL: so many webhooks at once and no more go to one receiver.
    Column("host", Text, nullable=False, server_default=""),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("job_id", String(36), nullable=False, index=True),
    Column("tried_at", Float, nullable=False),
    Column("status", Integer),
    Column("reason", Text),
    Column("duration_s", Float, nullable=False),
)

vault = Table(
    "vault",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("purpose", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("signs_from", Float, nullable=False),
    # NULL: the newest key; else when receivers need it no more.
    Column("published_until", Float),
)

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False, index=True),
    # False: the result of a request, which counts against no quota.
    Column("uploaded", Boolean, nullable=False),
    # NULL: the upload is unfinished, and expires_at is when it is given up.
    Column("size", BigInteger),
    # Bytes of the parts of an unfinished upload; of a draft, the submits that expect it (server/queue/drafts.py).
    Column("received", BigInteger, nullable=False, server_default="0"),
    # As its client named it; NULL: what the id's suffix says.
    Column("content_type", Text),
    Column("keep_s", Float, nullable=False),
    Column("acl", JSON(none_as_null=True)),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", Text, nullable=False, index=True),
    Column("key_hash", Text, nullable=False, unique=True),
    # Of server.queue.job.Scope, separated by spaces.
    Column("scopes", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float),
    Column("revoked_at", Float),
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("seen", Float, nullable=False),
    Column("clock", Text, nullable=False),
)

# What processes measure, for the metrics that any API process shows: one row each, replaced as a whole.
measures = Table(
    "measures",
    metadata,
    Column("process", Text, primary_key=True),
    Column("samples", JSON, nullable=False),
    Column("seen", Float, nullable=False),
    Column("clock", Text, nullable=False),
)

# Endpoints that an operator paused: their requests are taken and wait.
pauses = Table(
    "pauses",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("since", Float, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
)
