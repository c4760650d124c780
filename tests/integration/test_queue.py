"""The queue's rules (queue.md §3.3), the same on SQLite and on PostgreSQL: put, claim, fencing, leases.

Where each rule is proven:

1. one statement claims, nobody's job is another's: here, test_claim_batches
2. fencing: here, test_queue_machine
3. attempts count at the claim: here, test_claim_batches
4. result, webhook and state in one transaction, files before rows: here, test_queue_machine, test_drafts
5. leases outlast lost heartbeats: here; a stopped worker: test_worker
6. clocks: here
7. wake-up is a hint: test_queue_news, test_shaken_server, test_fleet
8. idempotency: test_idempotency, test_queue_machine
9. where SQLite may live: test_queue_outbox, test_residence
10. pruning: test_queue_outbox, test_queue_machine
11. a batch waits briefly: the worker's tests
12. warm models: test_claim_batches, test_queue_machine

Fairness: test_turns. Places: test_places, test_sights. Random histories against a model: test_queue_machine.
"""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from server.errors import QueueFull
from server.queue.job import Beat, LogLine
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from server.settings import SettingsError, read_settings
from tests.integration.conftest import LEASE_S
from tests.jobs import A, B, claim_one, put

# put, get, position


def test_a_stored_request_is_read_back_as_it_was_put(queue, open_queue):
    given = {"prompt": "snow ☃ \u0000 '); drop table jobs", "seed": 2**63, "nested": {"a": [1.5, None, True]}}
    job = queue.put(A, given, owner="me", base_url="http://h/q", priority=1, webhook="http://w/?a=b")

    read = open_queue().get(job.id)
    assert read == job
    assert (read.input, read.state, read.attempt, read.webhook) == (given, "IN_QUEUE", 0, "http://w/?a=b")


def test_another_owners_request_does_not_exist(queue):
    job = put(queue, owner="me")
    assert queue.get(job.id, "me") == job
    assert queue.get(job.id, "you") is None
    assert queue.cancel(job.id, "you") == "NOT_FOUND"
    assert queue.get("no-such-id") is None


def test_a_full_queue_stores_nothing(queue):
    for _ in range(2):
        put(queue, max_queue=2)
    with pytest.raises(QueueFull):
        put(queue, max_queue=2)
    assert queue.census.take().states["IN_QUEUE"] == 2


def test_an_invalid_request_is_stored_finished_and_never_runs(queue):
    job = put(queue, finished=(422, {"detail": []}, "missing"), webhook="http://w/")
    assert (job.state, job.http_status, job.error_type, job.result) == ("COMPLETED", 422, "missing", {"detail": []})
    assert queue.claim("w", [A]) == []
    assert [webhook.job_id for webhook in queue.due_webhooks()] == [job.id]


def test_the_position_counts_the_requests_ahead(queue):
    low, first, second = put(queue, priority=1), put(queue), put(queue)
    assert [queue.position(job) for job in (first, second, low)] == [0, 1, 2]
    claim_one(queue)
    assert [queue.position(job) for job in (second, low)] == [0, 1]


# claim


def test_jobs_are_served_by_priority_and_then_in_order_of_arrival(queue):
    low, first, second = put(queue, priority=1), put(queue), put(queue)
    assert [claim_one(queue).id for _ in range(3)] == [first.id, second.id, low.id]


def test_a_worker_gets_only_jobs_of_the_endpoints_that_it_offers(queue):
    put(queue, A)
    wanted = put(queue, B)
    assert [job.id for job in queue.claim("w", [B])] == [wanted.id]
    assert queue.claim("w", [B]) == []


def test_no_job_is_given_to_two_workers(open_queue):
    queues = [open_queue() for _ in range(4)]
    put_ids = {put(queues[0]).id for _ in range(60)}

    def work(index):
        mine = []
        while jobs := queues[index].claim(f"w{index}", [A], most=2):
            mine += [job.id for job in jobs]
        return mine

    with ThreadPoolExecutor(4) as pool:
        claimed = [job_id for mine in pool.map(work, range(4)) for job_id in mine]
    assert sorted(claimed) == sorted(put_ids)


def test_claiming_counts_the_attempt_and_starts_the_job(queue):
    put(queue)
    job = claim_one(queue, "w1")
    assert (job.state, job.worker, job.attempt) == ("IN_PROGRESS", "w1", 1)
    assert abs(job.started_at - time.time()) < 5


# fencing


def test_the_webhook_of_a_waiting_job_that_is_cancelled_does_not_wait_for_the_next_look(open_queue):
    """row 31: who sends webhooks listens for work."""
    server, sender = open_queue(), open_queue()
    job = put(server, webhook="http://w/")
    rings = sender.rings("work", poll_s=30)
    next(rings)
    time.sleep(0.3)  # its listener starts
    began = time.monotonic()
    server.cancel(job.id, "me")
    next(rings)
    assert time.monotonic() - began < 10
    assert [webhook.job_id for webhook in sender.due_webhooks()] == [job.id]


def test_a_job_is_finished_once(queue):
    put(queue)
    job = claim_one(queue)
    assert queue.finish(job, 200, {"seed": 1}, inference_time=0.25)
    assert not queue.finish(job, 500, {"seed": 2})
    done = queue.get(job.id)
    assert (done.state, done.http_status, done.result, done.inference_time) == ("COMPLETED", 200, {"seed": 1}, 0.25)


def test_a_worker_that_lost_its_job_can_change_nothing(queue):
    put(queue)
    lost = claim_one(queue, "w1")
    time.sleep(LEASE_S + 0.1)
    assert queue.rescue() == 1
    mine = claim_one(queue, "w2")
    assert mine.attempt == 2

    assert queue.heartbeat(lost) == queue.look(lost) == Beat(owned=False, cancel=False)
    assert not queue.log(lost, LogLine(time.time(), "late"))
    assert not queue.finish(lost, 200, {"late": True})
    assert not queue.release(lost)
    assert not queue.finish(replace(mine, attempt=1), 200, {})
    assert queue.finish(mine, 200, {"good": True})
    assert "late" not in [line.message for line in queue.logs(mine.id)]


def test_a_released_job_is_not_the_old_claims_any_more_even_for_the_same_worker(queue):
    put(queue)
    before = claim_one(queue, "w1")
    assert queue.release(before)
    again = claim_one(queue, "w1")
    assert not queue.finish(before, 200, {})
    assert queue.finish(again, 200, {})


def test_a_result_is_stored_with_its_webhook_or_not_at_all(queue):
    """rule 4."""
    put(queue, webhook="http://w/")
    job = claim_one(queue)
    rename(queue, "outbox", "away")
    with pytest.raises(DBAPIError):
        queue.finish(job, 200, {})
    rename(queue, "away", "outbox")
    assert (queue.get(job.id).state, queue.get(job.id).result) == ("IN_PROGRESS", None)
    assert queue.finish(job, 200, {})
    assert [webhook.job_id for webhook in queue.due_webhooks()] == [job.id]


def rename(queue: Queue, table: str, name: str) -> None:
    with queue._store.writing() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


# leases


def test_a_lease_outlasts_two_lost_heartbeats():
    """rule 5."""
    with pytest.raises(SettingsError, match="LEASE_S"):
        read_settings(lease_s=5, heartbeat_s=2)
    assert read_settings(lease_s=6, heartbeat_s=2).lease_s == 6


def test_a_heartbeat_keeps_the_job(queue):
    put(queue)
    job = claim_one(queue)
    for _ in range(4):
        time.sleep(LEASE_S / 2)
        assert queue.heartbeat(job).owned
        assert queue.rescue() == 0
    time.sleep(LEASE_S + 0.1)
    assert queue.rescue() == 1


def test_a_rescued_job_returns_to_its_place_and_says_so(queue):
    first = put(queue)
    put(queue)
    claim_one(queue)
    time.sleep(LEASE_S + 0.1)
    queue.rescue()
    assert queue.position(queue.get(first.id)) == 0
    assert [line.level for line in queue.logs(first.id)] == ["WARN"]
    assert claim_one(queue).id == first.id


def test_a_job_that_kills_every_worker_ends_as_runner_disconnected(queue):
    job = put(queue, webhook="http://w/")
    for attempt in range(1, 4):
        assert claim_one(queue, f"w{attempt}").attempt == attempt
        assert queue.rescue(worker=f"w{attempt}") == 1
    done = queue.get(job.id)
    assert (done.state, done.http_status, done.error_type) == ("COMPLETED", 503, "runner_disconnected")
    assert done.result["error_type"] == "runner_disconnected"
    assert len(queue.due_webhooks()) == 1


def test_only_the_dead_workers_jobs_are_given_away(queue):
    put(queue)
    put(queue)
    dead, alive = claim_one(queue, "dead"), claim_one(queue, "alive")
    assert queue.rescue(worker="dead") == 1
    assert queue.get(dead.id).state == "IN_QUEUE"
    assert queue.heartbeat(alive).owned


def test_giving_jobs_back_while_draining_burns_no_attempt(queue):
    job = put(queue)
    for _ in range(5):
        assert queue.release(claim_one(queue))
    claim_one(queue, "w")
    queue.rescue(worker="w")
    assert queue.get(job.id).state == "IN_QUEUE"


def test_a_job_that_is_cancelled_while_its_worker_drains_is_not_run_again(queue):
    """row 7, row 32: the wish of its client survives its worker, and its webhook is sent at once."""
    put(queue, webhook="http://w/")
    job = claim_one(queue)
    assert queue.cancel(job.id, "me") == "CANCELLATION_REQUESTED"
    assert queue.release(job)
    done = queue.get(job.id)
    assert (done.state, done.http_status, done.error_type) == ("COMPLETED", 499, "client_cancelled")
    assert queue.claim("w", [A]) == []
    assert [webhook.job_id for webhook in queue.due_webhooks()] == [job.id]
    assert not queue.release(job)


def test_a_changed_wall_clock_expires_no_lease(queue, monkeypatch):
    put(queue, start_timeout_s=5)
    claim_one(queue)
    put(queue, start_timeout_s=5)
    for jump in (3600, -3600):
        now = time.time() + jump
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert queue.rescue() == 0


def test_after_a_reboot_every_running_job_is_rescued(tmp_path):
    create_tables(f"sqlite:///{tmp_path / 'queue.db'}")
    queue = Queue(f"sqlite:///{tmp_path / 'queue.db'}", lease_s=3600, max_attempts=3)
    waiting, running = put(queue, B, start_timeout_s=3600), put(queue, A)
    queue.claim("w", [A])
    with sqlite3.connect(tmp_path / "queue.db") as other:
        other.execute("UPDATE jobs SET clock = 'the boot before'")
    assert queue.rescue() == 1
    assert [queue.get(job.id).state for job in (waiting, running)] == ["IN_QUEUE", "IN_QUEUE"]
    queue.close()
