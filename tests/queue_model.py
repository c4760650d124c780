"""A model of the queue in plain Python: what the real one must do, on SQLite and on PostgreSQL alike."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

MAX_ATTEMPTS = 3
RUNNING_TURN = -1
INPUT, FORGOTTEN = {"prompt": "x"}, {"files": []}

Place = tuple[int, int, int]


@dataclass
class ModelJob:
    """One request. `overdue`: its start timeout or its lease passed; `old`: low priority, and waited long enough."""

    id: str
    seq: int
    endpoint: str
    owner: str
    turn: int
    priority: int = 0
    batch_key: str = ""
    webhook: str | None = None
    no_retry: bool = False
    start_timeout_s: float | None = None
    store_io: bool = True
    state: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"] = "IN_QUEUE"
    attempt: int = 0
    spared: int = 0
    worker: str | None = None
    cancel_requested: bool = False
    overdue: bool = False
    old: bool = False
    http_status: int | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        return self.state == "IN_QUEUE"

    @property
    def place(self) -> Place:
        return self.priority, self.turn, self.seq

    @property
    def input(self) -> dict[str, object]:
        return INPUT if self.store_io or self.state != "COMPLETED" else FORGOTTEN

    @property
    def first_try(self) -> bool:
        return self.attempt == self.spared


@dataclass
class QueueModel:
    """All that a queue holds. `untold`: jobs whose webhook is to be sent, in the order of their end."""

    jobs: dict[str, ModelJob] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    untold: list[str] = field(default_factory=list)
    told_places: dict[tuple[str, int], int] = field(default_factory=dict)
    keys: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def waiting(self, wanted: Callable[[ModelJob], bool] = lambda job: True) -> list[ModelJob]:
        """In the order in which they are served."""
        return sorted((job for job in self.jobs.values() if job.waits and wanted(job)), key=lambda job: job.place)

    def turns_with(self, endpoint: str, priority: int) -> Callable[[ModelJob], bool]:
        return lambda job: job.priority == priority and (job.endpoint == endpoint or job.endpoint not in self.paused)

    def lowest(self, endpoint: str, priority: int) -> int:
        return min((job.turn for job in self.waiting(self.turns_with(endpoint, priority))), default=0)

    def next_turn(self, owner: str, endpoint: str, priority: int) -> int:
        others = self.waiting(self.turns_with(endpoint, priority))
        own = max((job.turn for job in others if job.owner == owner), default=-1)
        return max(self.lowest(endpoint, priority), own + 1)

    # What clients and workers do

    def refusal(self, owner: str, max_waiting: int | None = None, max_unfinished: int | None = None) -> str | None:
        """Of one more request with these limits."""
        own = [job for job in self.jobs.values() if job.owner == owner and job.state != "COMPLETED"]
        if max_unfinished is not None and len(own) >= max_unfinished:
            return "ConcurrentRequests"
        return "QueueFull" if max_waiting is not None and sum(job.waits for job in own) >= max_waiting else None

    def claim(self, worker: str, most: int, endpoints: Collection[str], warm: str | None) -> list[ModelJob]:
        free = self.waiting(lambda j: j.endpoint in endpoints and j.endpoint not in self.paused and not j.overdue)
        if not free:
            return []
        warm_ones = [job for job in free if job.endpoint == warm and job.priority == free[0].priority]
        head = warm_ones[0] if warm_ones and not free[0].old else free[0]
        kind = (head.endpoint, head.priority, head.batch_key)
        alike = [job for job in free if (job.endpoint, job.priority, job.batch_key) == kind and job.first_try]
        batch = alike[:most] if head.batch_key and head.first_try else [head]
        for job in batch:
            job.state, job.worker, job.turn = "IN_PROGRESS", worker, RUNNING_TURN
            job.attempt, job.overdue = job.attempt + 1, False
        return batch

    def held(self, job_id: str, worker: str | None, attempt: int) -> ModelJob | None:
        """The job, if that claim of it still counts."""
        job = self.jobs.get(job_id)
        mine = job and job.state == "IN_PROGRESS" and (job.worker, job.attempt) == (worker, attempt)
        return job if mine else None

    def complete(self, job: ModelJob, http_status: int) -> None:
        job.state, job.http_status, job.overdue = "COMPLETED", http_status, False
        if job.webhook:
            self.untold.append(job.id)

    def requeue(self, job: ModelJob, *, spare: bool) -> None:
        turn = self.lowest(job.endpoint, job.priority)
        job.state, job.worker, job.turn, job.overdue = "IN_QUEUE", None, turn, False
        job.start_timeout_s, job.spared = None, job.spared + spare

    def cancel(self, job_id: str) -> str:
        job = self.jobs.get(job_id)
        if job is None:
            return "NOT_FOUND"
        if job.state == "COMPLETED":
            return "ALREADY_COMPLETED"
        if job.waits:
            self.complete(job, 499)
        else:
            job.cancel_requested = True
        return "CANCELLATION_REQUESTED"

    def release(self, job: ModelJob) -> None:
        """Nobody is to run it again once its client has cancelled it."""
        if job.cancel_requested:
            self.complete(job, 499)
        else:
            self.requeue(job, spare=True)

    # What the caretaker and the operator do

    def rescue(self, worker: str | None) -> int:
        lost = [
            job for job in self.jobs.values() if job.overdue or (job.state == "IN_PROGRESS" and job.worker == worker)
        ]
        for job in sorted(lost, key=lambda job: job.seq):
            if job.waits:
                self.complete(job, 504)
            elif job.cancel_requested:
                self.complete(job, 499)
            elif job.no_retry or job.attempt - job.spared >= MAX_ATTEMPTS:
                self.complete(job, 503)
            else:
                self.requeue(job, spare=False)
                job.lines.append("The worker stopped; the request is queued again.")
        return len(lost)

    def promote(self) -> int:
        promoted = [job for job in self.waiting() if job.old and job.priority == 1]
        for job in promoted:
            job.turn = self.next_turn(job.owner, job.endpoint, 0)
            job.priority = 0
        return len(promoted)

    def prune(self) -> int:
        over = [job.id for job in self.jobs.values() if job.state == "COMPLETED" and job.id not in self.untold]
        self.forget(over)
        return len(over)

    def forget(self, job_ids: Collection[str]) -> None:
        """Also of a request that runs or waits: nothing of it is told any more."""
        self.jobs = {job_id: job for job_id, job in self.jobs.items() if job_id not in job_ids}
        self.untold = [job_id for job_id in self.untold if job_id not in job_ids]
        self.keys = {key: known for key, known in self.keys.items() if known[0] in self.jobs}

    def resume(self, endpoint: str) -> None:
        if endpoint not in self.paused:
            return
        self.paused.remove(endpoint)
        for priority in (0, 1):
            waiting = self.waiting(self.turns_with(endpoint, priority))
            own = [job for job in waiting if job.endpoint == endpoint]
            others = [job for job in waiting if job.endpoint != endpoint]
            if own and others:
                behind = others[0].turn - own[0].turn
                for job in own:
                    job.turn += behind

    # What is seen

    def places(self) -> dict[str, int]:
        """What clients that ask now are told: among those of its priority a place never rises."""
        told, urgent = {}, len(self.waiting(lambda job: job.priority == 0))
        for priority, ahead in ((0, 0), (1, urgent)):
            for place, job in enumerate(self.waiting(lambda job, priority=priority: job.priority == priority)):
                known = (job.id, priority)
                self.told_places[known] = min(place, self.told_places.get(known, place))
                told[job.id] = ahead + self.told_places[known]
        return told


def rows_of(jobs: Iterable[ModelJob]) -> dict[str, tuple[object, ...]]:
    """What the database must hold of each: the turn while it has one, the worker while it runs."""
    return {
        job.id: (
            job.state,
            job.attempt,
            job.spared,
            job.cancel_requested,
            job.http_status,
            job.input,
            job.priority,
            job.turn if job.waits else None,
            job.worker if job.state == "IN_PROGRESS" else None,
        )
        for job in jobs
    }
