"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    _jobs()
    op.create_table(
        "logs",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(36), nullable=False, index=True),
        sa.Column("timestamp", sa.Float, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(36), nullable=False, index=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("deadline", sa.Float, index=True),
        sa.Column("clock", sa.Text),
        sa.Column("last_error", sa.Text),
    )
    op.create_table(
        "keys",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("key_hash", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revoked_at", sa.Float),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("seen", sa.Float, nullable=False),
        sa.Column("clock", sa.Text, nullable=False),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False, unique=True),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("state", sa.String(11), nullable=False),
        sa.Column("input", sa.JSON, nullable=False),
        sa.Column("base_url", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("webhook", sa.Text),
        sa.Column("store_io", sa.Boolean, nullable=False, server_default=sa.text("true")),
        sa.Column("start_timeout_s", sa.Float),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("spared", sa.Integer, nullable=False, server_default="0"),
        sa.Column("worker", sa.Text),
        sa.Column("deadline", sa.Float),
        sa.Column("clock", sa.Text),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("http_status", sa.Integer),
        sa.Column("result", sa.JSON(none_as_null=True)),
        sa.Column("error_type", sa.Text),
        sa.Column("inference_time", sa.Float),
        sa.Column("metrics", sa.JSON(none_as_null=True)),
        sqlite_autoincrement=True,
    )
    for name, columns, state in (
        ("jobs_waiting", ["priority", "seq"], "IN_QUEUE"),
        ("jobs_running", ["deadline"], "IN_PROGRESS"),
        ("jobs_finished", ["finished_at"], "COMPLETED"),
    ):
        where = sa.text(f"state = '{state}'")
        op.create_index(name, "jobs", columns, postgresql_where=where, sqlite_where=where)
