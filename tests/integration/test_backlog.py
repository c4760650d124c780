"""A long backlog on both databases: what a submit is told of its place, without counting the whole queue each time."""

import time

from server.queue.backlog import FEW, FRESH_S

ENDPOINT = "a/b"


def put(queue, priority=0):
    return queue.put(ENDPOINT, {}, owner="anna", base_url="http://here", priority=priority)


def test_each_of_many_is_told_how_many_come_before_it(queue):
    for expected in range(FEW + 10):
        assert queue.position(put(queue)) == expected


def test_a_place_is_never_lower_than_what_comes_before_and_exact_again_soon(queue):
    for _ in range(FEW + 10):
        last = put(queue)
    queue.position(last)
    queue.claim("worker", [ENDPOINT], most=5)
    job = put(queue)
    at_once, truth = queue.position(job), FEW + 5
    assert truth <= at_once <= truth + 5
    time.sleep(FRESH_S)
    assert queue.position(job) == truth


def test_low_priority_counts_every_normal_one_before_it(queue):
    for _ in range(FEW):
        put(queue)
    low = [put(queue, priority=1) for _ in range(2)]
    queue.position(low[-1])
    put(queue)
    assert queue.position(put(queue, priority=1)) == FEW + 3
    assert queue.position(put(queue)) == FEW + 1
