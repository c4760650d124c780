"""A key's last turn is found by endpoint, however many requests wait at another one that is paused."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

UNFINISHED = sa.text("state <> 'COMPLETED'")


def upgrade() -> None:
    op.drop_index("jobs_unfinished", "jobs")
    columns = ["owner", "endpoint", "priority", "turn"]
    op.create_index("jobs_unfinished", "jobs", columns, postgresql_where=UNFINISHED, sqlite_where=UNFINISHED)
