"""Queue: requests from submit to result, on SQLite or PostgreSQL. Every acknowledged request gets one result."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, and_, insert, select, true, update
from sqlalchemy.exc import SQLAlchemyError

from server.errors import ClientCancelled
from server.queue import erase, limits, outbox, rescue, roster, sights, turns
from server.queue.census import Census
from server.queue.claims import Claims, choices
from server.queue.deliveries import Deliveries
from server.queue.drafts import Drafts
from server.queue.idempotency import Repeats
from server.queue.job import Beat, Cancellation, Job, LogLine, Outcome, State, Webhook, WorkerState
from server.queue.keyring import Keyring
from server.queue.ledger import Ledger
from server.queue.measures import Measures
from server.queue.pauses import Pauses
from server.queue.places import Places
from server.queue.rows import JOB_COLUMNS, complete, held_by, job_of, outcome_of
from server.queue.runs import Runs
from server.queue.store import Store
from server.queue.submission import INSERT, Submission, submit
from server.queue.tables import jobs, logs
from server.queue.vault import Vault
from server.queue.wakeup import POLL_S, Topic, Wakeup
from server.queue.writability import Writability
from server.queue.writer import Writer


class Queue:
    """One process's door to the queue; safe to share between threads.

    Args:
        database_url: SQLAlchemy URL: ``sqlite:///file`` or ``postgresql+psycopg://…``.
        lease_s: a running job whose worker is silent for this long is given to another one.
        max_attempts: how often a job is tried when its worker dies.

    Raises:
        StoreError: a database that cannot hold a queue.
    """

    def __init__(self, database_url: str, *, lease_s: float, max_attempts: int) -> None:
        self._store = Store(database_url)
        self._clock = self._store.clock
        self._wakeup = Wakeup(self._store)
        self._writer = Writer(self._store, lambda: self._wakeup.ring("work"))
        self._places = Places()
        self.keys = Keyring(self._store)
        self.ledger, self.vault, self.deliveries = Ledger(self._store), Vault(self._store), Deliveries(self._store)
        self.measures, self.census = Measures(self._store, fresh_s=lease_s), Census(self._store)
        self.runs, self.writability = Runs(self._store), Writability(self._store)
        self.drafts, self.pauses, self.repeats = (
            Drafts(self._store),
            Pauses(self._store, self._wakeup),
            Repeats(self._store),
        )
        self._lease_s, self._max_attempts = lease_s, max_attempts
        self._claims = Claims(self._clock, lease_s, self._wakeup.columns("news"))
        self._storing = INSERT.returning(*self._wakeup.columns("work"))

    def close(self) -> None:
        self.keys.close()
        self._wakeup.close()
        self._store.close()

    def rings(self, topic: Topic, poll_s: float = POLL_S) -> Iterator[None]:
        """Yield now, and again whenever it is time to look: after each ring of `topic`, or after `poll_s`."""
        return self._wakeup.bell(topic).rings(poll_s)

    # From the client's side

    def put(self, endpoint: str, input: dict[str, Any], **terms: Any) -> Job:
        """Store a request; on return it is on the disk.

        Args:
            terms: the fields of server.queue.submission.Submission.

        Raises:
            QueueFull, ConcurrentRequests: too many jobs are there already; nothing was stored.
            IdempotencyKeyReused: see server.queue.idempotency.
        """
        wanted = Submission(endpoint, input, **terms)

        def store(connection: Connection) -> Job:
            return submit(connection, self._clock, self._places, wanted, self._storing)

        if self._store.is_sqlite:
            try:
                return self._writer.write(store)
            except SQLAlchemyError:
                self._places.forget()
                raise
        with self._store.writing_durably() as connection:
            return store(connection)

    def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """The job; None when there is none, or when it belongs to another owner than the one given."""
        whose = jobs.c.owner == owner if owner is not None else true()
        with self._store.reading() as connection:
            row = connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == job_id, whose)).one_or_none()
        return job_of(row) if row else None

    def position(self, job: Job) -> int:
        """How many waiting jobs come before this one; 0 is next. It never rises for the same job (see Places)."""
        with self._store.reading() as connection:
            return self._places.ahead(connection, [job])[job.id]

    def views(self, wanted: Mapping[str, bool]) -> dict[str, sights.View]:
        """What status polls see: job id -> whether log lines are wanted; a job that is not there is missing."""
        return sights.views(self._store, self._places, wanted)

    def logs(self, job_id: str) -> list[LogLine]:
        """The job's lines so far, oldest first."""
        lines = select(logs.c.timestamp, logs.c.message, logs.c.level, logs.c.source)
        with self._store.reading() as connection:
            return [
                LogLine(*row) for row in connection.execute(lines.where(logs.c.job_id == job_id).order_by(logs.c.id))
            ]

    def cancel(self, job_id: str, owner: str | None = None) -> Cancellation:
        """End a waiting job at once; ask the worker of a running one to stop after its step."""
        whose = and_(jobs.c.id == job_id, jobs.c.owner == owner if owner is not None else true())
        with self._changing("news", "work") as connection:
            state: State | None = connection.scalar(select(jobs.c.state).where(whose).with_for_update())
            match state:
                case None:
                    return "NOT_FOUND"
                case "COMPLETED":
                    return "ALREADY_COMPLETED"
                case "IN_QUEUE":
                    complete(connection, self._clock, whose, outcome_of(ClientCancelled()))
                case "IN_PROGRESS":
                    connection.execute(update(jobs).where(whose).values(cancel_requested=True))
        return "CANCELLATION_REQUESTED"

    # From the worker's side

    def claim(
        self, worker: str, endpoints: Sequence[str], most: int = 1, *, warm: str | None = None, warm_s: float = 0.0
    ) -> list[Job]:
        """Take the next job, and others that can be generated with it: in all `most` of one endpoint and batch key.

        Args:
            worker: names one process run, never used again.
            warm: of equal priority this endpoint's jobs come first, unless the next job has waited for `warm_s`.
        """
        with self._store.reading() as connection:
            heads = self._claims.heads(connection, endpoints)
        for choice in choices(heads, warm, warm_s):
            with self._store.stating() as connection:
                claimed = self._claims.claim(connection, worker, choice, most)
            if claimed:
                self._wakeup.ring("news")
                return claimed
        return []

    def heartbeat(self, job: Job) -> Beat:
        """Renew the lease."""
        renewed = {"deadline": self._clock.now() + self._lease_s, "clock": self._clock.name}
        with self._store.stating() as connection:
            beat = update(jobs).where(held_by(job)).values(renewed).returning(jobs.c.cancel_requested)
            return Beat.of(connection.scalar(beat))

    def look(self, job: Job) -> Beat:
        """What `heartbeat` answers, without renewing the lease: a read, for a few times per second."""
        with self._store.reading() as connection:
            return Beat.of(connection.scalar(select(jobs.c.cancel_requested).where(held_by(job))))

    def log(self, job: Job, *lines: LogLine) -> bool:
        """Add lines for the client. False: the job was given to someone else."""
        with self._changing("news", durable=False) as connection:
            mine = connection.scalar(select(jobs.c.seq).where(held_by(job)).with_for_update()) is not None
            if mine and lines:
                connection.execute(insert(logs), [{"job_id": job.id, **vars(line)} for line in lines])
            return mine

    def finish(
        self,
        job: Job,
        http_status: int,
        body: dict[str, Any],
        *,
        error_type: str | None = None,
        inference_time: float | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> bool:
        """Record the outcome and queue the webhook. False: the job was given to someone else, the result is dropped."""
        outcome = Outcome(http_status, body, error_type, inference_time, metrics)
        with self._changing("news", "work") as connection:
            return complete(connection, self._clock, held_by(job), outcome)

    def release(self, job: Job) -> bool:
        """Give a job back unfinished, without counting the attempt: this worker is leaving. A cancelled one ends."""
        mine = held_by(job)
        with self._changing("news", "work") as connection:
            if connection.scalar(select(jobs.c.cancel_requested).where(mine).with_for_update()):
                return complete(connection, self._clock, mine, outcome_of(ClientCancelled()))
            return turns.requeue(connection, mine, spare=True)

    # From the caretaker's side

    def overdue(self) -> bool:
        """Whether the lease or start timeout of any job passed: a look, which tells that the database is there, too."""
        return rescue.needed(self._store, None)

    def rescue(self, worker: str | None = None) -> int | None:
        """Give away or finish the jobs whose lease or start timeout passed, and all of `worker`, which is known dead.

        Returns:
            how many jobs were moved. None: the database was locked for a while, also for those who renew their leases,
            so that none was judged.
        """
        if not rescue.needed(self._store, worker):
            return 0
        began = time.monotonic()
        with self._changing("news", "work") as connection:
            if worker is None and time.monotonic() - began > rescue.LOCKED_S:
                return None
            return rescue.rescue(connection, self._clock, self._max_attempts, worker)

    def promote(self, waited_s: float) -> int:
        """Make low-priority jobs normal that were submitted `waited_s` ago, so that they start some day.

        Returns:
            how many.
        """
        total = 0
        while True:
            with self._store.writing() as connection:
                promoted = turns.promote(connection, waited_s)
            total += promoted
            if promoted < turns.AT_ONCE:
                return total

    def prune(self, older_than_s: float, delete_files: Callable[[Sequence[str]], None]) -> int:
        """Forget requests finished `older_than_s` ago, webhook settled; unstored ones sooner, with their photos."""
        return rescue.prune(self._store, older_than_s, delete_files)

    def check_room(self, owner: str, **most: int | None) -> None:
        """Raises what `put` would raise now: for a look before anything else of a request is stored."""
        with self._store.reading() as connection:
            limits.check(connection, self._places, owner, **most)

    def register(
        self, owner: str | None = None, finished_for_s: float | None = None, most: int | None = None
    ) -> list[erase.Entry]:
        """Stored requests, newest first; of one owner, or those finished for longer than `finished_for_s`."""
        return erase.register(self._store, owner, finished_for_s, most)

    def erase(self, job_ids: Iterable[str], delete_files: Callable[[Sequence[str]], None]) -> Iterator[int]:
        """Cancel, and remove with files, logs and webhooks; yields how many requests each transaction erased."""
        for some in erase.batches(job_ids):
            with self._changing("news") as connection:
                erase.end(connection, self._clock, some)
            erase.erase(self._store, some, delete_files)
            yield len(some)

    # Webhooks, workers

    def due_webhooks(self, most: int = 16, busy: Collection[str] = (), *, first_tries: bool = False) -> list[Webhook]:
        """Webhooks to send now; nobody else gets them for a while. Tell what became of each. See outbox.due."""
        return outbox.due(self._store, most, busy, first_tries=first_tries)

    def webhook_delivered(self, webhook: Webhook) -> None:
        outbox.settle(self._store, webhook, retry_in_s=None, error=None)

    def webhook_failed(self, webhook: Webhook, error: str, retry_in_s: float | None) -> None:
        """`retry_in_s` None: given up."""
        outbox.settle(self._store, webhook, retry_in_s=retry_in_s, error=error)

    def webhook_handed_back(self, webhook: Webhook) -> None:
        """Not sent to the end, since its sender leaves."""
        outbox.hand_back(self._store, webhook)

    def publish_worker(self, state: WorkerState) -> None:
        """Say how a worker is; `state.age_s` is ignored."""
        roster.publish(self._store, state)

    def forget_worker(self, name: str) -> None:
        roster.forget(self._store, name)

    def workers(self) -> list[WorkerState]:
        """What each worker last said; one that is silent for longer than the lease is left out."""
        return [state for state in roster.every(self._store) if state.age_s <= self._lease_s]

    @contextmanager
    def _changing(self, *topics: Topic, durable: bool = True) -> Iterator[Connection]:
        with self._store.writing_durably() if durable else self._store.writing() as connection:
            yield connection
            self._wakeup.ring_with(connection, *topics)
        for topic in topics:
            self._wakeup.ring(topic)
