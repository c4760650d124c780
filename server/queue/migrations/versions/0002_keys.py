"""Keys have an id and scopes, and tell when they were last used; several may belong to one name."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "new_keys",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key_hash", sa.Text, nullable=False, unique=True),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("used_at", sa.Float),
        sa.Column("revoked_at", sa.Float),
    )
    # The id in an older key is known to its user alone: the beginning of the hash stands for it.
    op.execute(
        "INSERT INTO new_keys (id, name, key_hash, scopes, created_at, revoked_at) "
        "SELECT substr(key_hash, 1, 36), name, key_hash, 'run read', created_at, revoked_at FROM keys"
    )
    op.drop_table("keys")
    op.rename_table("new_keys", "keys")
    op.create_index("ix_keys_name", "keys", ["name"])
    unfinished = sa.text("state <> 'COMPLETED'")
    op.create_index("jobs_unfinished", "jobs", ["owner"], postgresql_where=unfinished, sqlite_where=unfinished)
