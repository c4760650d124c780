"""What status polls see, on both databases: as Queue.get, Queue.position and Queue.logs tell, for many at once."""

from server.queue.job import LogLine
from server.queue.queue import Queue

ENDPOINT = "test/blue-square"


def put(queue: Queue, priority: int = 0) -> str:
    return queue.put(ENDPOINT, {"prompt": "one"}, owner="local", base_url="http://x", priority=priority).id


def test_each_job_is_seen_with_its_place_and_its_lines(queue):
    ids = [put(queue, priority) for priority in (0, 0, 1, 0)]
    (running,) = queue.claim("worker", [ENDPOINT])
    queue.log(running, LogLine(1.0, "first"), LogLine(2.0, "second"))
    seen = queue.views({job_id: job_id != ids[1] for job_id in [*ids, "nothing"]})

    assert set(seen) == set(ids)
    assert [seen[job_id].position for job_id in ids] == [0, 0, 2, 1]
    assert [seen[job_id].job for job_id in ids] == [queue.get(job_id) for job_id in ids]
    assert [line.message for line in seen[ids[0]].lines] == ["first", "second"]
    assert seen[ids[1]].lines is None
    assert seen[ids[2]].lines == []


def test_the_place_is_counted_among_all_who_wait_not_among_those_asked_for(queue):
    ids = [put(queue) for _ in range(5)]
    seen = queue.views({ids[4]: False, ids[2]: False})

    assert (seen[ids[2]].position, seen[ids[4]].position) == (2, 4)


def test_a_second_attempt_looks_different_from_the_first(queue):
    job_id = put(queue)
    (first,) = queue.claim("one", [ENDPOINT])
    before = queue.views({job_id: False})[job_id].sight
    queue.release(first)
    queue.claim("two", [ENDPOINT])

    assert queue.views({job_id: False})[job_id].sight != before


def test_nothing_is_asked_for_nothing(queue):
    assert queue.views({}) == {}
