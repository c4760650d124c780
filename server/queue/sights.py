"""Sights: what status polls see of jobs, read for all that ask at the same moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from server.queue.job import Job, LogLine, State
from server.queue.places import Places
from server.queue.rows import JOB_COLUMNS, job_of
from server.queue.store import Store
from server.queue.tables import jobs, logs


@dataclass(frozen=True)
class Sight:
    """What of a job can be news to its client. `attempt` tells two runs of the same job apart.

    Args:
        position: how many waiting jobs come before it; 0 when it does not wait.
        lines: how many log lines there are; 0 for a client that wants none.
    """

    state: State
    attempt: int
    position: int
    lines: int


@dataclass(frozen=True)
class View:
    """All that a status answer tells. `lines`: the log so far, None for a client that wants none."""

    job: Job
    position: int
    lines: list[LogLine] | None

    @property
    def sight(self) -> Sight:
        return Sight(self.job.state, self.job.attempt, self.position, len(self.lines or ()))


# Built once: composing a statement costs more than SQLite needs to answer it.
THESE = bindparam("ids", expanding=True)
JOBS = select(*JOB_COLUMNS).where(jobs.c.id.in_(THESE))
LINES = (
    select(logs.c.job_id, logs.c.timestamp, logs.c.message, logs.c.level, logs.c.source)
    .where(logs.c.job_id.in_(THESE))
    .order_by(logs.c.id)
)


def views(store: Store, places: Places, wanted: Mapping[str, bool]) -> dict[str, View]:
    """What each of these jobs looks like now, in one transaction; one that is not there is missing.

    The log is read after the state, so that COMPLETED comes with every line.

    Args:
        wanted: job id -> whether its log lines are wanted.
    """
    with store.reading() as connection:
        found = [job_of(row) for row in connection.execute(JOBS, {"ids": list(wanted)})]
        positions = places.ahead(connection, [job for job in found if job.state == "IN_QUEUE"])
        lines = lines_of(connection, [job.id for job in found if wanted[job.id]])
    return {job.id: View(job, positions.get(job.id, 0), lines.get(job.id)) for job in found}


def lines_of(connection: Connection, ids: list[str]) -> dict[str, list[LogLine]]:
    if not ids:
        return {}
    lines: dict[str, list[LogLine]] = {one: [] for one in ids}
    for job_id, *line in connection.execute(LINES, {"ids": ids}):
        lines[job_id].append(LogLine(*line))
    return lines
