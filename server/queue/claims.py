"""Claims: which waiting jobs a worker gets next: the first one, and those that can be generated together with it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    exists,
    literal,
    not_,
    select,
    true,
    tuple_,
    union_all,
    update,
)

from server.queue.job import Job
from server.queue.rows import JOB_COLUMNS, ORDER, WAITING, job_of, too_late
from server.queue.store import Clock
from server.queue.tables import jobs, pauses

RUNNING_TURN = -1
"""What runs has no turn any more: the next one of its key is counted from those that wait (server/queue/turns.py)."""
FIRST_TRY = jobs.c.attempt == jobs.c.spared
"""False for a job that was in the hands of a worker that died: it may be why, so it is run alone."""
BEFORE_PRIORITY, BEFORE_TURN, BEFORE_SEQ = (bindparam(f"before_{column.name}", type_=column.type) for column in ORDER)

Place = tuple[int, int, int]
"""Priority, turn, seq: the lowest is served first."""


@dataclass(frozen=True)
class Head:
    """The first claimable job of one endpoint. `created_at`: unix seconds."""

    endpoint: str
    place: Place
    created_at: float


@dataclass(frozen=True)
class Choice:
    """To claim the first job of `endpoint`, if it comes before that place; None: wherever it is."""

    endpoint: str
    before: Place | None = None


def claimable(clock: Clock, endpoint: ColumnElement[str]) -> ColumnElement[bool]:
    """This endpoint's waiting jobs, but for those whose start timeout passed; none while an operator paused it."""
    paused = exists().where(pauses.c.endpoint == endpoint)
    return and_(WAITING, jobs.c.endpoint == endpoint, not_(too_late(clock)), not_(paused))


def choices(heads: Sequence[Head], warm: str | None, warm_s: float) -> Iterator[Choice]:
    """What to try until something is claimed, which only another worker that claims just now makes fail.

    The warm endpoint comes first while the next job has waited for no more than `warm_s` and is not more urgent. A
    changed wall clock makes a wait look long, never short.
    """
    equals = [head.endpoint for head in heads if head.place[0] == heads[0].place[0]]
    if warm in equals and abs(time.time() - heads[0].created_at) <= warm_s:
        yield Choice(warm)
    for head, following in pairwise(heads):
        yield Choice(head.endpoint, following.place)
    yield from (Choice(head.endpoint) for head in heads)


class Claims:
    """The statements, each composed once: that would cost more than the database needs to answer.

    Args:
        ringing: columns that make a claim known, returned beside the job's own.
    """

    def __init__(self, clock: Clock, lease_s: float, ringing: Sequence[ColumnElement[Any]] = ()) -> None:
        self._clock, self._lease_s, self._ringing = clock, lease_s, ringing
        self._heads: dict[tuple[str, ...], CompoundSelect[*tuple[Any, ...]]] = {}
        self._claims: dict[tuple[bool, bool], Update] = {}

    def heads(self, connection: Connection, endpoints: Sequence[str]) -> list[Head]:
        """The first claimable job of each endpoint, next one first: a read, so a look at nothing takes no lock."""
        if not endpoints:
            return []
        wanted = tuple(endpoints)
        if wanted not in self._heads:
            self._heads[wanted] = union_all(*map(self._first_of, wanted))
        rows = connection.execute(self._heads[wanted])
        found = [Head(row.endpoint, (row.priority, row.turn, row.seq), row.created_at) for row in rows]
        return sorted(found, key=lambda head: head.place)

    def _first_of(self, endpoint: str) -> Select[*tuple[Any, ...]]:
        of_endpoint = claimable(self._clock, literal(endpoint))
        found = select(jobs.c.endpoint, jobs.c.created_at, *ORDER).where(of_endpoint)
        return select(found.order_by(*ORDER).limit(1).subquery())

    def claim(self, connection: Connection, worker: str, choice: Choice, most: int) -> list[Job]:
        """Give the chosen job, and up to `most` in all that are like it, to `worker`, in one statement."""
        kind = (most > 1, choice.before is not None)
        if kind not in self._claims:
            self._claims[kind] = self._statement(*kind)
        names = (BEFORE_PRIORITY, BEFORE_TURN, BEFORE_SEQ)
        before = zip((name.key for name in names), choice.before or (), strict=False)
        told = {"of_endpoint": choice.endpoint, "new_worker": worker, "claimed_at": time.time(), **dict(before)}
        rows = connection.execute(self._claims[kind], told | ({"mates": most - 1} if most > 1 else {}))
        return sorted(map(job_of, rows), key=lambda job: job.seq)

    def _statement(self, together: bool, before: bool) -> Update:
        """One statement on both databases.

        Alike are jobs of one endpoint, priority and batch key, unless that is empty, and all on their first try. On
        PostgreSQL each CTE skips rows that another worker is just taking; a lock under a join would not (PgQueuer
        #761). Each reads one endpoint in the order of an index: of several, PostgreSQL would sort whole backlogs when
        its statistics are old.
        """
        of_endpoint = claimable(self._clock, bindparam("of_endpoint", type_=Text()))
        in_time = tuple_(*ORDER) < tuple_(BEFORE_PRIORITY, BEFORE_TURN, BEFORE_SEQ) if before else true()
        first = select(jobs.c.seq, jobs.c.batch_key, jobs.c.priority, FIRST_TRY.label("first_try"))
        head = picked("head", first.where(of_endpoint, in_time), literal(1))
        taken = select(head.c.seq)
        if together:
            taken = union_all(taken, select(picked("mates", alike(of_endpoint, head), bindparam("mates")).c.seq))
        return (
            update(jobs)
            .where(jobs.c.seq.in_(taken))
            .values(
                state="IN_PROGRESS",
                worker=bindparam("new_worker"),
                turn=RUNNING_TURN,
                attempt=jobs.c.attempt + 1,
                started_at=bindparam("claimed_at"),
                deadline=self._clock.now() + self._lease_s,
                clock=self._clock.name,
            )
            .returning(*JOB_COLUMNS, *self._ringing)
        )


def alike(of_endpoint: ColumnElement[bool], head: CTE) -> Select[*tuple[Any, ...]]:
    """What can be generated together with the head."""
    of_head = {column.name: select(column).scalar_subquery() for column in head.c}
    return select(jobs.c.seq).where(
        of_endpoint,
        jobs.c.batch_key == of_head["batch_key"],
        jobs.c.priority == of_head["priority"],
        jobs.c.batch_key != "",
        FIRST_TRY,
        of_head["first_try"],
        jobs.c.seq != of_head["seq"],
    )


def picked(name: str, found: Select[*tuple[Any, ...]], most: ColumnElement[int]) -> CTE:
    """The first of these jobs, each locked unless another worker has it."""
    first = found.order_by(*ORDER).limit(most).with_for_update(skip_locked=True)
    return first.cte(name).prefix_with("MATERIALIZED")
