"""The queue's rules, the same on both databases: cancel, start timeout, logs, wake-up."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from server.queue.job import Beat, LogLine
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from tests.jobs import A, claim_one, put

# cancel and start timeout


def test_a_waiting_job_is_cancelled_at_once(queue):
    """row 31."""
    job = put(queue, webhook="http://w/")
    assert queue.cancel(job.id, "me") == "CANCELLATION_REQUESTED"
    done = queue.get(job.id)
    assert (done.state, done.http_status, done.error_type) == ("COMPLETED", 499, "client_cancelled")
    assert queue.claim("w", [A]) == []
    assert queue.cancel(job.id, "me") == "ALREADY_COMPLETED"
    assert len(queue.due_webhooks()) == 1


def test_a_running_jobs_worker_hears_of_the_cancellation(queue):
    """row 35: said twice it is the same."""
    put(queue)
    job = claim_one(queue)
    assert queue.cancel(job.id, "me") == "CANCELLATION_REQUESTED"
    assert queue.cancel(job.id, "me") == "CANCELLATION_REQUESTED"
    assert queue.look(job) == queue.heartbeat(job) == Beat(owned=True, cancel=True)
    assert queue.get(job.id).state == "IN_PROGRESS"


def test_a_cancelled_job_whose_worker_dies_is_not_run_again(queue):
    put(queue)
    job = claim_one(queue, "w")
    queue.cancel(job.id, "me")
    queue.rescue(worker="w")
    assert queue.get(job.id).error_type == "client_cancelled"


def test_an_unknown_job_cannot_be_cancelled(queue):
    """row 35."""
    assert queue.cancel("00000000-0000-0000-0000-000000000000") == "NOT_FOUND"


def test_cancelling_while_claiming_leaves_exactly_one_outcome(open_queue):
    """row 33: a waiting job is cancelled as its worker takes it; either way it ends once, and is told of once."""
    server, worker = open_queue(), open_queue()
    waiting = [put(server, webhook="http://w/", batch_key="12") for _ in range(40)]

    def work():
        done = {}
        while jobs := worker.claim("w", [A], 2):
            for job in jobs:
                done[job.id] = worker.finish(job, 200, {"ok": True})
        return done

    with ThreadPoolExecutor(2) as pool:
        finishing = pool.submit(work)
        answers = {job.id: server.cancel(job.id) for job in reversed(waiting)}
        finished = finishing.result()
    assert all(finished.values())
    for job in waiting:
        end = server.get(job.id)
        assert (end.state, end.http_status) == ("COMPLETED", 200 if job.id in finished else 499)
        assert answers[job.id] == "CANCELLATION_REQUESTED" or job.id in finished
    assert sorted(webhook.job_id for webhook in server.due_webhooks(most=100)) == sorted(answers)


def test_cancelling_while_finishing_leaves_exactly_one_outcome(open_queue):
    """row 33."""
    mine, theirs = open_queue(), open_queue()
    for _ in range(20):
        put(mine)
        job = claim_one(mine)
        with ThreadPoolExecutor(2) as pool:
            finished = pool.submit(mine.finish, job, 200, {"ok": True})
            cancelled = pool.submit(theirs.cancel, job.id, "me")
        assert finished.result()
        assert cancelled.result() in {"CANCELLATION_REQUESTED", "ALREADY_COMPLETED"}
        assert mine.get(job.id).http_status == 200


def test_a_job_that_nobody_starts_in_time_ends_as_request_timeout(queue):
    """row 36: and it is not tried again."""
    late, patient = put(queue, start_timeout_s=0.2), put(queue)
    time.sleep(0.3)
    assert [job.id for job in queue.claim("w", [A], most=2)] == [patient.id]
    assert queue.rescue() == 1
    done = queue.get(late.id)
    assert (done.http_status, done.error_type, done.attempt) == (504, "request_timeout", 0)
    assert queue.rescue() == 0
    assert queue.claim("w", [A]) == []


def test_a_job_that_started_in_time_is_not_timed_out_when_it_is_rescued(queue):
    put(queue, start_timeout_s=0.5)
    job = claim_one(queue, "w")
    time.sleep(0.6)
    queue.rescue(worker="w")
    queue.rescue()
    assert queue.get(job.id).state == "IN_QUEUE"


# logs


def test_logs_are_kept_in_order(queue):
    put(queue)
    job = claim_one(queue)
    lines = [LogLine(float(number), f"Step {number}/3") for number in (1, 2, 3)]
    assert queue.log(job, *lines[:2])
    assert queue.log(job, lines[2])
    assert queue.logs(job.id) == lines


# wake-up


def test_a_waiting_worker_hears_of_a_new_job_within_milliseconds(open_queue):
    server, worker = open_queue(), open_queue()
    rings = worker.rings("work", poll_s=30)
    next(rings)
    time.sleep(0.3)  # its listener starts
    threading.Timer(0.1, put, [server]).start()
    began = time.monotonic()
    next(rings)
    assert time.monotonic() - began < 5
    assert claim_one(worker)


def test_a_ring_between_two_looks_is_not_missed(open_queue):
    server, worker = open_queue(), open_queue()
    rings = worker.rings("news", poll_s=30)
    next(rings)
    time.sleep(0.3)
    job = put(server)
    server.cancel(job.id, "me")
    time.sleep(0.3)
    began = time.monotonic()
    next(rings)
    assert time.monotonic() - began < 5


def test_without_any_ring_the_poll_comes_round(queue):
    rings = queue.rings("work", poll_s=0.2)
    next(rings)
    began = time.monotonic()
    next(rings)
    assert 0.1 < time.monotonic() - began < 5


def test_a_bell_that_cannot_be_rung_refuses_no_request(tmp_path):
    """107: what is on the disk is acknowledged; whoever waits finds it at the next look."""
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    create_tables(url)
    (tmp_path / "queue.wakeup").touch()  # a file where the folder of the sockets must be
    queue = Queue(url, lease_s=30, max_attempts=3)
    assert queue.cancel(put(queue).id) == "CANCELLATION_REQUESTED"
    queue.close()
