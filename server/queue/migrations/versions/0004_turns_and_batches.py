"""Turns of keys, batch keys, idempotency keys, drafts of files; measures of processes, pauses."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

WAITING = sa.text("state = 'IN_QUEUE'")
UNFINISHED = sa.text("state <> 'COMPLETED'")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("turn", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("batch_key", sa.Text, nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("idempotency_key", sa.Text))
    op.add_column("jobs", sa.Column("body_hash", sa.String(64)))
    op.add_column("jobs", sa.Column("drafts", sa.JSON(none_as_null=True)))
    op.drop_index("jobs_waiting", "jobs")
    partial("jobs_waiting", ["priority", "turn", "seq"], WAITING)
    partial("jobs_of_endpoint", ["endpoint", "priority", "turn", "seq"], WAITING)
    partial("jobs_alike", ["endpoint", "batch_key", "priority", "turn", "seq"], WAITING)
    op.drop_index("jobs_running", "jobs")
    partial("jobs_running", ["worker"], sa.text("state = 'IN_PROGRESS'"))
    partial("jobs_due", ["clock", "deadline"], sa.text("deadline IS NOT NULL"))
    op.drop_index("jobs_unfinished", "jobs")
    partial("jobs_unfinished", ["owner", "priority", "turn"], UNFINISHED)
    give_turns()
    partial("jobs_idempotency", ["owner", "idempotency_key"], sa.text("idempotency_key IS NOT NULL"), unique=True)
    op.create_table(
        "measures",
        sa.Column("process", sa.Text, primary_key=True),
        sa.Column("samples", sa.JSON, nullable=False),
        sa.Column("seen", sa.Float, nullable=False),
        sa.Column("clock", sa.Text, nullable=False),
    )
    op.create_table(
        "pauses",
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
    )


def give_turns() -> None:
    """As if the keys of what waits had taken turns from the beginning; what runs has no turn any more."""
    jobs = sa.table("jobs", *map(sa.column, ("seq", "owner", "priority", "state", "turn")))
    place = sa.func.row_number().over(partition_by=(jobs.c.owner, jobs.c.priority), order_by=jobs.c.seq) - 1
    places = sa.select(jobs.c.seq, place.label("place")).where(jobs.c.state == "IN_QUEUE").cte("places")
    turn = sa.select(places.c.place).where(places.c.seq == jobs.c.seq).scalar_subquery()
    op.execute(jobs.update().where(jobs.c.state == "IN_QUEUE").values(turn=turn))
    op.execute(jobs.update().where(jobs.c.state == "IN_PROGRESS").values(turn=-1))


def partial(name: str, columns: list[str], where: sa.TextClause, *, unique: bool = False) -> None:
    op.create_index(name, "jobs", columns, unique=unique, postgresql_where=where, sqlite_where=where)
