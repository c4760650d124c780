"""The ledger of files, wishes of clients for them and for retries, the log of webhooks, secrets of all hosts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("no_retry", sa.Boolean, nullable=False, server_default=sa.text("false")))
    op.add_column("jobs", sa.Column("lifecycle", sa.JSON(none_as_null=True)))
    op.add_column("outbox", sa.Column("spared", sa.Integer, nullable=False, server_default="0"))
    op.add_column("outbox", sa.Column("host", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "files",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False, index=True),
        sa.Column("uploaded", sa.Boolean, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("received", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("content_type", sa.Text),
        sa.Column("keep_s", sa.Float, nullable=False),
        sa.Column("acl", sa.JSON(none_as_null=True)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(36), nullable=False, index=True),
        sa.Column("tried_at", sa.Float, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("reason", sa.Text),
        sa.Column("duration_s", sa.Float, nullable=False),
    )
    op.create_table(
        "vault",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("signs_from", sa.Float, nullable=False),
        sa.Column("published_until", sa.Float),
    )
