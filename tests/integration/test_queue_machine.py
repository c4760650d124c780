"""The queue against its model (tests/queue_model.py): random histories, the same on SQLite and on PostgreSQL.

A longer run by hand: ``pytest tests/integration/test_queue_machine.py --hypothesis-profile=long``.
"""

import time
from contextlib import closing
from dataclasses import replace
from functools import partialmethod
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

from server.errors import ConcurrentRequests, QueueFull, RequestError
from server.queue.idempotency import Idempotency
from server.queue.job import Beat, Job, LogLine
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from server.queue.tables import jobs, metadata, outbox
from tests.jobs import A, B
from tests.queue_model import INPUT, MAX_ATTEMPTS, ModelJob, QueueModel, rows_of

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
WEBHOOKS = st.sampled_from((None, "http://w/"))


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
        webhook=WEBHOOKS,
        no_retry=st.sampled_from((False, False, True)),
        start_timeout_s=st.sampled_from((None, None, LONG_AGO_S)),
        store_io=st.sampled_from((True, True, False)),
        limits=st.sampled_from(({}, {}, {"max_waiting": 3}, {"max_unfinished": 4})),
    )
    def submit(self, number: int, owner: str, limits: dict[str, int], **terms: Any) -> Any:
        """An owner at its limit is told so, and nothing is stored."""
        ids = []
        for _ in range(number):
            refusal = self.model.refusal(owner, **limits)
            try:
                ids.append(self.put(owner, limits=limits, **terms))
            except (QueueFull, ConcurrentRequests) as error:
                assert type(error).__name__ == refusal
                break
            assert refusal is None
        return multiple(*ids)

    @rule(target=ids, owner=st.sampled_from("xy"), webhook=WEBHOOKS, store_io=st.booleans())
    def submit_invalid(self, owner: str, **terms: Any) -> str:
        """It is stored finished, takes no place from anybody, and is told of."""
        finished = (422, {"detail": []}, "missing")
        job_id = self.put(owner, limits={"max_waiting": 0, "max_unfinished": 0}, finished=finished, **terms)
        self.model.complete(self.model.jobs[job_id], 422)
        return job_id

    def put(self, owner: str, endpoint: str = A, *, limits: dict[str, int], finished: Any = None, **terms: Any) -> str:
        turn = 0 if finished else self.model.next_turn(owner, endpoint, terms.get("priority", 0))
        known = ModelJob("", 0, endpoint, owner, turn, **terms)
        job = self.queue.put(endpoint, INPUT, owner=owner, base_url="http://h", finished=finished, **limits, **terms)
        assert (job.turn, job.state, job.attempt) == (turn, "COMPLETED" if finished else "IN_QUEUE", 0)
        self.model.jobs[job.id] = replace(known, id=job.id, seq=job.seq)
        return job.id

    @rule(target=ids, owner=st.sampled_from("xy"), key=st.sampled_from("kl"), body=st.sampled_from("ab"))
    def submit_by_name(self, owner: str, key: str, body: str) -> Any:
        """Rule 8: the second submit under a key finds the first one, and refuses another body."""
        known_id, known_body = self.model.keys.get((owner, key), (None, body))
        turn = self.model.next_turn(owner, A, 0)
        try:
            job = self.queue.put(A, INPUT, owner=owner, base_url="http://h", idempotency=Idempotency(key, body))
        except RequestError as error:
            assert (error.http_status, known_body != body) == (422, True)
            return multiple()
        if known_id:
            assert (job.id, known_body) == (known_id, body)
            return multiple()
        self.model.keys[owner, key] = (job.id, body)
        self.model.jobs[job.id] = ModelJob(job.id, job.seq, A, owner, turn)
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

    @rule(claim=claims, do=st.sampled_from(("beat", "log", "finish", "finish", "fail", "release", "give_up")))
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

    def finish(self, claim: Job, http_status: int = 200) -> None:
        job = self.model.held(claim.id, claim.worker, claim.attempt)
        assert self.queue.finish(claim, http_status, {"attempt": claim.attempt}) == (job is not None)
        if job:
            self.model.complete(job, http_status)
            assert self.queue.get(job.id).result == {"attempt": job.attempt}

    fail = partialmethod(finish, http_status=500)

    def release(self, claim: Job) -> None:
        job = self.model.held(claim.id, claim.worker, claim.attempt)
        assert self.queue.release(claim) == (job is not None)
        if job:
            self.model.release(job)

    def give_up(self, claim: Job) -> None:
        self.cancel(claim.id)
        self.release(claim)

    @precondition(runs)
    @rule(place=st.sampled_from(PLACES))
    def worker_dies(self, place: str) -> None:
        worker = f"{place}.{self.runs[place]}"
        assert self.queue.rescue(worker) == self.model.rescue(worker)
        self.runs[place] += 1

    # time, the caretaker, the operator

    @rule(job_id=ids, do=st.sampled_from(("time_passes", "grow_old", "cancel") * 3 + ("erase",)))
    def happen(self, job_id: str, do: str) -> None:
        getattr(self, do)(job_id)

    def time_passes(self, job_id: str) -> None:
        """The start timeout of a waiting job, or the lease of a running one."""
        job = self.model.jobs.get(job_id)
        if job and (job.state == "IN_PROGRESS" or (job.waits and job.start_timeout_s)):
            job.overdue = True
            self.change(job_id, deadline=jobs.c.deadline - 2 * LONG_AGO_S)

    def grow_old(self, job_id: str) -> None:
        job = self.model.jobs.get(job_id)
        if job and job.waits:
            job.old = True
            self.change(job_id, created_at=time.time() - LONG_AGO_S)

    def erase(self, job_id: str) -> None:
        """Whatever it does: nothing of it is left, and its worker's claim counts no more."""
        self.model.forget([job_id])
        assert list(self.queue.erase([job_id], lambda files: None)) == [1]
        assert (self.queue.get(job_id), self.queue.logs(job_id)) == (None, [])

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

    def pause_or_resume(self, endpoint: str) -> None:
        if endpoint in self.model.paused:
            self.model.resume(endpoint)
            assert self.queue.pauses.resume(endpoint)
        else:
            self.model.paused.add(endpoint)
            self.queue.pauses.pause(endpoint)

    pause_a, pause_b = partialmethod(pause_or_resume, A), partialmethod(pause_or_resume, B)

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
        more = (jobs.c.input, jobs.c.priority, jobs.c.turn, jobs.c.worker)
        with self.store.reading() as connection:
            rows = connection.execute(select(jobs.c.id, *columns, *more)).all()
            told = connection.execute(select(outbox.c.job_id).order_by(outbox.c.job_id)).scalars().all()
        found = {
            row.id: (
                *row[1:8],
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


def test_the_queue_does_what_its_model_does(database_url):
    """rules 1-4, 8, 10, 12; row 31, row 35, row 36, row 40, row 41: any history leaves what the model says."""
    create_tables(database_url)
    chosen = settings() if settings.get_current_profile_name() == "long" else USUAL
    with closing(Queue(database_url, lease_s=LONG_AGO_S, max_attempts=MAX_ATTEMPTS)) as queue:
        run_state_machine_as_test(lambda: QueueMachine(queue), settings=chosen)
