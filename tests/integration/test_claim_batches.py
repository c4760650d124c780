"""Which jobs a worker gets together, the same on SQLite and on PostgreSQL (queue.md §3.3, rules 1, 3, 12)."""

import time
from concurrent.futures import ThreadPoolExecutor

from tests.jobs import A, B, put


def ids(jobs):
    return [job.id for job in jobs]


def claim(queue, most=4, **more):
    return ids(queue.claim("w", [A, B], most, **more))


def test_a_batch_holds_jobs_of_one_endpoint_and_batch_key(queue):
    """rule 1: 12 steps of A together, then B's, then what is left."""
    alike = [put(queue, A, batch_key="12") for _ in range(2)]
    other = [put(queue, B, batch_key="12"), put(queue, A, batch_key="4")]
    alike += [put(queue, A, batch_key="12") for _ in range(2)]
    assert claim(queue, most=3) == ids(alike[:3])
    assert claim(queue, most=3) == ids(other[:1])
    assert claim(queue, most=3) == ids(other[1:])
    assert claim(queue, most=3) == ids(alike[3:])
    assert claim(queue, most=3) == []


def test_a_job_without_a_batch_key_is_alone(queue):
    jobs = [put(queue) for _ in range(2)]
    assert claim(queue) == ids(jobs[:1])
    assert claim(queue) == ids(jobs[1:])


def test_most_of_one_is_one(queue):
    jobs = [put(queue, batch_key="12") for _ in range(2)]
    assert claim(queue, most=1) == ids(jobs[:1])


def test_a_low_priority_job_joins_no_normal_batch(queue):
    """18: `low` starts after `normal`, also after a normal one that cannot be in the batch."""
    low, normal, unlike = put(queue, batch_key="12", priority=1), put(queue, batch_key="12"), put(queue)
    assert claim(queue) == [normal.id]
    assert claim(queue) == [unlike.id]
    assert claim(queue) == [low.id]


def test_a_job_whose_worker_died_is_run_alone_and_takes_nobody_down_again(queue):
    """row 10: of four that killed their worker together each is tried by itself next, and three succeed."""
    batch = [put(queue, batch_key="12") for _ in range(4)]
    assert claim(queue) == ids(batch)
    assert queue.rescue(worker="w") == 4
    fresh = put(queue, batch_key="12")
    for job in batch[:3]:
        [mine] = queue.claim("w", [A], 4)
        assert (mine.id, queue.finish(mine, 200, {})) == (job.id, True)
    for _ in range(2):
        assert claim(queue) == [batch[3].id]
        queue.rescue(worker="w")
    assert [queue.get(job.id).http_status for job in batch] == [200, 200, 200, 503]
    assert claim(queue) == [fresh.id]


def test_a_first_try_does_not_wait_for_a_second_one_and_does_not_join_it(queue):
    first = put(queue, batch_key="12")
    claim(queue)
    queue.rescue(worker="w")
    others = [put(queue, batch_key="12") for _ in range(2)]
    assert claim(queue) == [first.id]
    assert claim(queue) == ids(others)


def test_a_second_try_joins_no_batch_of_first_tries(queue):
    first, second, third = (put(queue, batch_key="12") for _ in range(3))
    [mine] = queue.claim("leaves", [A])
    queue.claim("dies", [A])
    queue.rescue(worker="dies")
    queue.release(mine)
    assert claim(queue) == [first.id, third.id]
    assert claim(queue) == [second.id]


def test_jobs_given_back_by_a_leaving_worker_are_a_batch_again(queue):
    batch = [put(queue, batch_key="12") for _ in range(3)]
    for job in queue.claim("w", [A], 4):
        assert queue.release(job)
    assert claim(queue) == ids(batch)


def test_a_cancelled_or_timed_out_job_is_in_no_batch(queue):
    batch = [put(queue, batch_key="12", start_timeout_s=0.2 if late else None) for late in (0, 1, 0, 0)]
    queue.cancel(batch[2].id)
    time.sleep(0.3)
    assert claim(queue) == [batch[0].id, batch[3].id]


def test_no_job_is_in_two_batches_and_none_is_mixed(open_queue):
    """rule 1: four processes claim at once from a queue of three kinds."""
    queues = [open_queue() for _ in range(4)]
    kind = {put(queues[0], batch_key=str(number % 3)).id: number % 3 for number in range(90)}

    def work(index):
        batches = []
        while jobs := queues[index].claim(f"w{index}", [A, B], 4):
            batches.append(ids(jobs))
        return batches

    with ThreadPoolExecutor(4) as pool:
        batches = [batch for mine in pool.map(work, range(4)) for batch in mine]
    assert sorted(job_id for batch in batches for job_id in batch) == sorted(kind)
    assert all(len({kind[job_id] for job_id in batch}) == 1 and len(batch) <= 4 for batch in batches)


# the model that is warm


def test_the_warm_endpoint_comes_first_for_a_while_only(queue):
    """rule 12, row 43: a cold model's job waits for `warm_s` at most while the warm one's go on."""
    cold, warm = put(queue, A), [put(queue, B) for _ in range(3)]
    assert claim(queue, warm=B, warm_s=60) == [warm[0].id]
    assert claim(queue, warm=B, warm_s=0) == [cold.id]
    assert claim(queue, warm=A, warm_s=60) == [warm[1].id]
    assert claim(queue) == [warm[2].id]


def test_the_warm_endpoint_is_not_more_urgent(queue):
    put(queue, B, priority=1)
    normal = put(queue, A)
    assert claim(queue, warm=B, warm_s=60) == [normal.id]


def test_a_changed_wall_clock_lets_no_cold_job_wait(queue, monkeypatch):
    cold = [put(queue, A) for _ in range(2)]
    put(queue, B)
    now = time.time()
    for jump in (-3600, 3600):
        monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
        assert claim(queue, warm=B, warm_s=60) == [cold.pop(0).id]


# paused endpoints


def test_a_paused_endpoints_jobs_wait(queue):
    queue.pauses.pause(A)
    waits, runs = put(queue, A), put(queue, B)
    assert claim(queue) == [runs.id]
    assert claim(queue) == []
    assert queue.get(waits.id).state == "IN_QUEUE"
    queue.pauses.resume(A)
    assert claim(queue) == [waits.id]
