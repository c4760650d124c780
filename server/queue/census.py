"""Census: the whole queue counted for operators, by endpoint, priority and state; no job, key or client in it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, func, select

from server.queue.job import State
from server.queue.rows import COMPLETED, RUNNING, WAITING
from server.queue.store import Store
from server.queue.tables import jobs, outbox

LATELY_S = 60.0
"""fal's own gauges tell of the last minute (docs/metrics.md)."""
LATENCIES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


@dataclass(frozen=True)
class Depth:
    """Jobs that wait for one endpoint at one priority. `oldest_s`: how long the first of them has waited."""

    endpoint: str
    priority: int
    number: int
    oldest_s: float


@dataclass(frozen=True)
class Ended:
    """Jobs of one endpoint that ended lately with one status. `within`: how many took at most each of LATENCIES_S."""

    endpoint: str
    http_status: int
    number: int
    within: Sequence[int]


@dataclass(frozen=True)
class Figures:
    """The queue at one moment. `running` and `received` (lately) by endpoint; `webhooks`: how many wait to be sent."""

    states: Mapping[State, int]
    depths: Sequence[Depth]
    running: Mapping[str, int]
    received: Mapping[str, int]
    ended: Sequence[Ended]
    webhooks: int


class Census:
    """Counts in one transaction. Each question is answered by one of the jobs table's small indexes alone."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self) -> Figures:
        now = time.time()
        with self._store.reading() as connection:
            depths = waiting(connection, now)
            each = select(jobs.c.endpoint, func.count()).where(RUNNING).group_by(jobs.c.endpoint)
            running = {row[0]: row[1] for row in connection.execute(each)}
            done = connection.scalar(select(func.count()).select_from(jobs).where(COMPLETED)) or 0
            due = select(func.count()).select_from(outbox).where(outbox.c.deadline.is_not(None))
            states: dict[State, int] = {
                "IN_QUEUE": sum(depth.number for depth in depths),
                "IN_PROGRESS": sum(running.values()),
                "COMPLETED": done,
            }
            webhooks = connection.scalar(due) or 0
            return Figures(states, depths, running, received(connection, now), ended(connection, now), webhooks)


def waiting(connection: Connection, now: float) -> list[Depth]:
    key = (jobs.c.endpoint, jobs.c.priority)
    group = select(*key, func.count().label("number"), func.min(jobs.c.seq).label("first"))
    groups = group.where(WAITING).group_by(*key).subquery()
    # The age by the first seq: to look for the least created_at would read every waiting row.
    rows = select(groups.c.endpoint, groups.c.priority, groups.c.number, jobs.c.created_at)
    joined = rows.join_from(groups, jobs, jobs.c.seq == groups.c.first)
    return [Depth(row[0], row[1], row[2], max(0.0, now - row[3])) for row in connection.execute(joined)]


def received(connection: Connection, now: float) -> dict[str, int]:
    """Submits of the last minute by endpoint."""
    newer = jobs.c.seq >= first_since(connection, now - LATELY_S)
    each = select(jobs.c.endpoint, func.count()).where(newer).group_by(jobs.c.endpoint)
    return {row[0]: row[1] for row in connection.execute(each)}


def first_since(connection: Connection, moment: float) -> int:
    """The first seq submitted after `moment`, found by halving: submits are in order, and their time has no index."""
    low = connection.scalar(select(func.min(jobs.c.seq))) or 0  # one by one: asked for both, SQLite reads every row
    high = (connection.scalar(select(func.max(jobs.c.seq))) or 0) + 1
    while low < high:
        middle = (low + high) // 2
        here = select(jobs.c.created_at).where(jobs.c.seq >= middle).order_by(jobs.c.seq).limit(1)
        created_at = connection.scalar(here)
        if created_at is None or created_at > moment:
            high = middle
        else:
            low = middle + 1
    return low


def ended(connection: Connection, now: float) -> list[Ended]:
    took = jobs.c.finished_at - jobs.c.created_at
    within = [func.sum(case((took <= limit, 1), else_=0)) for limit in LATENCIES_S]
    key = (jobs.c.endpoint, jobs.c.http_status)
    each = select(*key, func.count(), *within).where(COMPLETED, jobs.c.finished_at > now - LATELY_S).group_by(*key)
    return [Ended(row[0], row[1], row[2], row[3:]) for row in map(tuple[Any, ...], connection.execute(each))]
