"""Turns: keys take turns, so that a key that sends thousands of requests costs the others one place each time.

Of equal priority the lowest turn is served first. A request gets the lowest one that waits, or the one after its key's
own last that waits (start-time fair queuing, with requests of equal size): docs/decisions/0036-turns.md.
"""

import time

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    ScalarSelect,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    update,
)

from server.queue.drafts import abandon
from server.queue.job import PRIORITIES
from server.queue.rows import ORDER, UNFINISHED, WAITING
from server.queue.tables import jobs, pauses

NORMAL, LOW = range(len(PRIORITIES))
AT_ONCE = 100
"""Promoted in one transaction, so that no submit waits long."""

others, known = jobs.alias("others"), jobs.alias("known")


def endpoints_in_line() -> CTE:
    """Each endpoint of which jobs wait, found by one look into an index, however many these are; and a last NULL."""
    queued = known.c.state == literal_column("'IN_QUEUE'")
    line = select(func.min(known.c.endpoint).label("endpoint")).where(queued).cte("line", recursive=True)
    following = select(func.min(known.c.endpoint)).where(queued, known.c.endpoint > line.c.endpoint)
    return line.union_all(select(following.scalar_subquery()).where(line.c.endpoint.is_not(None)))


LINE = endpoints_in_line()


def turns_with(endpoint: ColumnElement[str]) -> ColumnElement[bool]:
    """Endpoints in line that take turns with this one: all but others that an operator paused."""
    return or_(LINE.c.endpoint == endpoint, LINE.c.endpoint.not_in(select(pauses.c.endpoint)))


def first_turn(priority: ColumnElement[int]) -> ColumnElement[int]:
    """Of an endpoint in line."""
    waiting = and_(others.c.state == literal_column("'IN_QUEUE'"), others.c.priority == priority)
    of_endpoint = select(func.min(others.c.turn)).where(waiting, others.c.endpoint == LINE.c.endpoint)
    return of_endpoint.correlate(LINE, jobs).scalar_subquery()


def lowest(endpoint: ColumnElement[str], priority: ColumnElement[int]) -> ScalarSelect[int]:
    """The turn that is served now; NULL when nothing waits."""
    return select(func.min(first_turn(priority))).where(turns_with(endpoint)).correlate(jobs).scalar_subquery()


# Built once: composing it costs more than the database needs to answer it. Running jobs have the turn -1, so that this
# need not ask for waiting ones: PostgreSQL would take their index instead, and read all of it for a key without any.
OWNER, ENDPOINT, PRIORITY = bindparam("owner"), bindparam("endpoint"), bindparam("priority")
OWN = and_(UNFINISHED, jobs.c.owner == OWNER, jobs.c.endpoint == LINE.c.endpoint, jobs.c.priority == PRIORITY)
LAST_TURN = select(func.max(jobs.c.turn)).where(OWN).correlate(LINE).scalar_subquery()
NOW_AND_OWN = select(func.min(first_turn(PRIORITY)), func.max(LAST_TURN)).where(turns_with(ENDPOINT))


def next_turn(connection: Connection, owner: str, endpoint: str, priority: int) -> int:
    """The turn of a request that this key adds now."""
    whose = {"owner": owner, "endpoint": endpoint, "priority": priority}
    now, own = connection.execute(NOW_AND_OWN, whose).one()
    return max(now or 0, 0 if own is None else own + 1)


def requeue(connection: Connection, where: ColumnElement[bool], *, spare: bool) -> bool:
    """Put a running job back among the first, before its key's later ones.

    Not with its old turn: that may be long past, or far ahead of what is served by now.

    Args:
        spare: this attempt does not count against max_attempts.
    """
    abandon(connection, where)
    back = (
        update(jobs)
        .where(where)
        .values(
            state="IN_QUEUE",
            worker=None,
            started_at=None,
            deadline=None,
            clock=None,
            drafts=None,
            turn=func.coalesce(lowest(jobs.c.endpoint, jobs.c.priority), 0),
            spared=jobs.c.spared + int(spare),
        )
        .returning(jobs.c.seq)  # Python's SQLite counts no rows of a statement that begins with WITH
    )
    return connection.scalar(back) is not None


def promote(connection: Connection, waited_s: float) -> int:
    """Make low-priority jobs normal that were submitted `waited_s` ago, each with its key's next turn there.

    Returns:
        how many; AT_ONCE: there may be more.
    """
    old = (WAITING, jobs.c.priority == LOW, jobs.c.created_at < time.time() - waited_s)
    found = select(jobs.c.seq, jobs.c.owner, jobs.c.endpoint).where(*old).order_by(*ORDER).limit(AT_ONCE)
    rows = connection.execute(found.with_for_update(skip_locked=True)).all()
    for row in rows:
        turn = next_turn(connection, row.owner, row.endpoint, NORMAL)
        connection.execute(update(jobs).where(jobs.c.seq == row.seq).values(priority=NORMAL, turn=turn))
    return len(rows)


def rejoin(connection: Connection, endpoint: str) -> None:
    """Move the turns of an endpoint that was paused to where the others' are by now, so that they alternate again."""
    for priority in (NORMAL, LOW):
        waiting = and_(WAITING, jobs.c.priority == priority)
        own = and_(waiting, jobs.c.endpoint == endpoint)
        others_only = and_(waiting, jobs.c.endpoint != endpoint, jobs.c.endpoint.not_in(select(pauses.c.endpoint)))
        first, first_of_others = (
            connection.scalar(select(func.min(jobs.c.turn)).where(those)) for those in (own, others_only)
        )
        if first is not None and first_of_others is not None:
            connection.execute(update(jobs).where(own).values(turn=jobs.c.turn + (first_of_others - first)))
