"""The queue against its model (tests/queue_model.py): random histories, the same on SQLite and on PostgreSQL.

A longer run by hand: ``pytest tests/integration/test_queue_machine.py --hypothesis-profile=long``.
"""

import time
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update

from server.errors import RequestError
from server.queue.idempotency import Idempotency
from server.queue.job import Beat, Job, LogLine
from server.queue.queue import Queue
from server.queue.tables import jobs, metadata, outbox
from tests.jobs import A, B
from tests.queue_model import MAX_ATTEMPTS, ModelJob, QueueModel, rows_of

# Nothing is made smaller here, which takes minutes: the long profile does it.
USUAL = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONG_AGO_S = 1000.0
PLACES = ("w0", "w1", "w2")


def waits(machine: Any) -> bool:
    """Without it most histories would do nothing to an empty queue."""
    return bool(machine.model.waiting(lambda job: job.endpoint not in machine.model.paused))


def runs(machine: Any) -> bool:
    return any(job.state == "IN_PROGRESS" for job in machine.model.jobs.values())


class QueueMachine(RuleBasedStateMachine):
    """One queue and its model; every rule does the same to both, and they must agree."""

    ids, claims = Bundle("ids"), Bundle("claims")

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.queue, self.store, self.model = queue, queue._store, QueueModel()
        self.runs = dict.fromkeys(PLACES, 0)

    @initialize()
    def empty(self) -> None:
        with self.store.writing() as connection:
            for table in metadata.tables.values():
                connection.execute(delete(table))

    # clients

    @rule(
        target=ids,
        number=st.integers(1, 4),
        endpoint=st.sampled_from((A, A, B)),
        owner=st.sampled_from("xyz"),
        priority=st.sampled_from((0, 0, 0, 1)),
        batch_key=st.sampled_from(("", "4", "4", "12")),
        webhook=st.booleans(),
        no_retry=st.sampled_from((False, False, True)),
        timed=st.sampled_from((False, False, True)),
    )
    def submit(self, number: int, endpoint: str, owner: str, webhook: bool, timed: bool, **terms: Any) -> Any:
        more = {"webhook": "http://w/" if webhook else None, "start_timeout_s": LONG_AGO_S if timed else None}
        ids = []
        for _ in range(number):
            turn = self.model.next_turn(owner, endpoint, terms["priority"])
            job = self.queue.put(endpoint, {}, owner=owner, base_url="http://h", **more, **terms)
            assert (job.turn, job.state, job.attempt) == (turn, "IN_QUEUE", 0)
            known = ModelJob(job.id, job.seq, endpoint, owner, webhook=webhook, timed=timed, turn=turn, **terms)
            self.model.jobs[job.id] = known
            ids.append(job.id)
        return multiple(*ids)

    @rule(target=ids, owner=st.sampled_from("xy"), key=st.sampled_from("kl"), body=st.sampled_from("ab"))
    def submit_by_name(self, owner: str, key: str, body: str) -> Any:
        """Rule 8: the second submit under a key finds the first one, and refuses another body."""
        known_id, known_body = self.model.keys.get((owner, key), (None, body))
        turn = self.model.next_turn(owner, A, 0)
        try:
            job = self.queue.put(A, {}, owner=owner, base_url="http://h", idempotency=Idempotency(key, body))
        except RequestError as error:
            assert (error.http_status, known_body != body) == (422, True)
            return multiple()
        if known_id:
            assert (job.id, known_body) == (known_id, body)
            return multiple()
        self.model.keys[owner, key] = (job.id, body)
        self.model.jobs[job.id] = ModelJob(job.id, job.seq, A, owner, 0, "", False, False, False, turn)
        return job.id

    def cancel(self, job_id: str) -> None:
        assert self.queue.cancel(job_id) == self.model.cancel(job_id)

    def look(self) -> None:
        """26: everybody who waits sees a place, and it never rises."""
        seen = self.queue.views(dict.fromkeys(self.model.jobs, False))
        waiting = {job_id: view.position for job_id, view in seen.items() if view.job.state == "IN_QUEUE"}
        assert waiting == self.model.places()

    # workers

    @precondition(waits)
    @rule(
        target=claims,
        place=st.sampled_from(PLACES),
        most=st.sampled_from((4, 2, 1)),
        endpoints=st.sampled_from(((A, B), (A, B), (A, B), (A,), (B,))),
        warm=st.sampled_from((None, A, B)),
    )
    def claim(self, place: str, most: int, endpoints: tuple[str, ...], warm: str | None) -> Any:
        """Rules 1, 3, 12."""
        worker = f"{place}.{self.runs[place]}"
        expected = self.model.claim(worker, most, endpoints, warm if warm in endpoints else None)
        claimed = self.queue.claim(worker, endpoints, most, warm=warm, warm_s=LONG_AGO_S / 2)
        assert {job.id: job.attempt for job in claimed} == {job.id: job.attempt for job in expected}
        return multiple(*claimed)

    @rule(claim=claims, do=st.sampled_from(("beat", "log", "finish", "finish", "fail", "release")))
    def work(self, claim: Job, do: str) -> None:
        """Rule 2: a claim that was lost changes nothing."""
        getattr(self, do)(claim)

    def beat(self, claim: Job) -> None:
        job = self.model.held(claim.id, claim.worker, claim.attempt)
        assert self.queue.heartbeat(claim) == Beat(owned=job is not None, cancel=bool(job and job.cancel_requested))
        if job:
            job.overdue = False

    def log(self, claim: Job) -> None:
        job = self.model.held(claim.id, claim.worker, claim.attempt)
        message = f"{claim.worker} {claim.attempt}"
        assert self.queue.log(claim, LogLine(time.time(), message)) == (job is not None)
        if job:
            job.lines.append(message)

    def fail(self, claim: Job) -> None:
        self.finish(claim, 500)

    def finish(self, claim: Job, http_status: int = 200) -> None:
        job = self.model.held(claim.id, claim.worker, claim.attempt)
        assert self.queue.finish(claim, http_status, {"attempt": claim.attempt}) == (job is not None)
        if job:
            self.model.complete(job, http_status)
            assert self.queue.get(job.id).result == {"attempt": job.attempt}

    def release(self, claim: Job) -> None:
        job = self.model.held(claim.id, claim.worker, claim.attempt)
        assert self.queue.release(claim) == (job is not None)
        if job:
            self.model.requeue(job, spare=True)

    @precondition(runs)
    @rule(place=st.sampled_from(PLACES))
    def worker_dies(self, place: str) -> None:
        worker = f"{place}.{self.runs[place]}"
        assert self.queue.rescue(worker) == self.model.rescue(worker)
        self.runs[place] += 1

    # time, the caretaker, the operator

    @rule(job_id=ids, do=st.sampled_from(("time_passes", "grow_old", "cancel")))
    def happen(self, job_id: str, do: str) -> None:
        getattr(self, do)(job_id)

    def time_passes(self, job_id: str) -> None:
        """The start timeout of a waiting job, or the lease of a running one."""
        job = self.model.jobs.get(job_id)
        if job and (job.state == "IN_PROGRESS" or (job.waits and job.timed)):
            job.overdue = True
            self.change(job_id, deadline=jobs.c.deadline - 2 * LONG_AGO_S)

    def grow_old(self, job_id: str) -> None:
        job = self.model.jobs.get(job_id)
        if job and job.waits:
            job.old = True
            self.change(job_id, created_at=time.time() - LONG_AGO_S)

    def change(self, job_id: str, **values: Any) -> None:
        with self.store.writing() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))

    @precondition(lambda self: self.model.jobs)
    @rule(do=st.sampled_from(("look", "look", "rescue", "promote", "prune", "tell", "pause_a", "pause_b")))
    def care(self, do: str) -> None:
        getattr(self, do)()

    def rescue(self) -> None:
        assert self.queue.rescue() == self.model.rescue(None)

    def promote(self) -> None:
        assert self.queue.promote(LONG_AGO_S / 2) == self.model.promote()

    def prune(self) -> None:
        """Rule 10: only what is finished and told."""
        assert self.queue.prune(-1, lambda files: None) == self.model.prune()

    def pause_a(self) -> None:
        self.pause_or_resume(A)

    def pause_b(self) -> None:
        self.pause_or_resume(B)

    def pause_or_resume(self, endpoint: str) -> None:
        if endpoint in self.model.paused:
            self.model.resume(endpoint)
            assert self.queue.pauses.resume(endpoint)
        else:
            self.model.paused.add(endpoint)
            self.queue.pauses.pause(endpoint)

    def tell(self) -> None:
        """Rule 4: each finished job with a webhook is told of once."""
        due = self.queue.due_webhooks(most=100)
        assert [webhook.job_id for webhook in due] == self.model.untold
        for webhook in due:
            self.queue.webhook_delivered(webhook)
        self.model.untold.clear()

    # what must always hold

    @invariant()
    def agree(self) -> None:
        """No acknowledged job is lost or doubled, and each is as its history says."""
        columns = (jobs.c.state, jobs.c.attempt, jobs.c.spared, jobs.c.cancel_requested, jobs.c.http_status)
        more = (jobs.c.priority, jobs.c.turn, jobs.c.worker)
        with self.store.reading() as connection:
            rows = connection.execute(select(jobs.c.id, *columns, *more)).all()
            told = connection.execute(select(outbox.c.job_id).order_by(outbox.c.job_id)).scalars().all()
        found = {
            row.id: (
                *row[1:7],
                row.turn if row.state == "IN_QUEUE" else None,
                row.worker if row.state == "IN_PROGRESS" else None,
            )
            for row in rows
        }
        assert found == rows_of(self.model.jobs.values())
        assert told == sorted(j.id for j in self.model.jobs.values() if j.webhook and j.state == "COMPLETED")

    def teardown(self) -> None:
        for job in self.model.jobs.values():
            assert [line.message for line in self.queue.logs(job.id)] == job.lines


def test_the_queue_does_what_its_model_does(database_url, open_queue):
    """rules 1-4, 8, 10, 12; row 31, row 35, row 36, row 40, row 41: any history leaves what the model says."""
    queue = open_queue()
    assert queue._max_attempts == MAX_ATTEMPTS
    queue._lease_s = LONG_AGO_S
    chosen = settings() if settings.get_current_profile_name() == "long" else USUAL
    run_state_machine_as_test(lambda: QueueMachine(queue), settings=chosen)
