"""Places in the queue, the same on SQLite and on PostgreSQL: exact while few wait, and cheap when many do."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError

from server.queue import limits, places
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from tests.jobs import A, put
from tests.worker_process import eventually


def queued(queue, number, **more):
    return [put(queue, **more) for _ in range(number)]


def read_again(queue):
    """As if the rest since the last reading were over."""
    queue._places._read_again_at = 0


def test_each_of_many_is_told_how_many_come_before_it(queue):
    for expected in range(places.FEW + 10):
        assert queue.position(put(queue)) == expected


def test_of_a_few_every_place_is_exact_at_once(queue):
    first, *others = queued(queue, 10)
    queue.claim("w", [A])
    queue.cancel(others[3].id)
    assert [queue.position(job) for job in others] == [0, 1, 2, 3, 3, 4, 5, 6, 7]
    assert queue.position(first) == 0


def test_of_many_a_place_may_be_too_high_for_a_moment_and_is_exact_again_soon(queue):
    waiting = queued(queue, places.FEW + 10)
    read_again(queue)
    assert queue.position(waiting[-1]) == places.FEW + 9
    for _ in range(5):
        queue.claim("w", [A])
    job, truth = put(queue), places.FEW + 5
    assert truth <= queue.position(job) <= truth + 5
    read_again(queue)
    assert queue.position(job) == truth


def test_low_priority_counts_every_normal_one_before_it(queue):
    queued(queue, places.FEW)
    low = queued(queue, 2, priority=1)
    assert queue.position(low[-1]) == places.FEW + 1
    put(queue)
    assert queue.position(put(queue, priority=1)) == places.FEW + 3
    assert queue.position(put(queue)) == places.FEW + 1


def test_the_place_that_a_client_was_told_never_rises(queue):
    """26: another key's turn comes first, and the first one's client still reads what it was told."""
    flood = queued(queue, 4, owner="f")
    assert [queue.position(job) for job in flood] == [0, 1, 2, 3]
    quiet = queued(queue, 2, owner="q")
    assert [queue.position(job) for job in quiet] == [1, 3]
    assert [queue.position(job) for job in flood] == [0, 1, 2, 3]
    assert [queue.claim("w", [A])[0].id for _ in range(3)] == [flood[0].id, quiet[0].id, flood[1].id]
    assert [queue.position(job) for job in (quiet[1], *flood[2:])] == [0, 1, 2]


def test_the_place_of_a_low_priority_job_rises_with_each_normal_one(queue):
    """18, 26: what never rises is its place among those of low priority."""
    low = put(queue, priority=1, owner="f")
    assert queue.position(low) == 0
    normal = put(queue)
    assert [queue.position(job) for job in (low, normal)] == [1, 0]
    queue.claim("w", [A])
    assert queue.position(low) == 0


def test_what_is_remembered_of_told_places_is_bounded(queue, monkeypatch):
    monkeypatch.setattr(places, "MOST_TOLD", 3)
    for job in queued(queue, 5):
        queue.position(job)
    assert len(queue._places._told) == 3


def test_however_many_ask_the_queue_is_not_read_for_each(queue):
    """Four hundred polls of a long queue: it is read once, and each poll reads what is new."""
    waiting, read = queued(queue, places.FEW + 20), []
    queue.position(waiting[0])
    queue._places._read_again_at = float("inf")
    engine = queue._store._quick

    @event.listens_for(engine, "after_cursor_execute")
    def count(_connection, cursor, statement, *_rest):
        if "ORDER BY jobs.priority" in statement:
            read.append(cursor.rowcount)

    for job in waiting * 5:
        queue.position(job)
    assert read == []
    read_again(queue)
    queue.position(waiting[0])
    assert len(read) == 1


def test_a_new_job_of_another_process_is_in_its_place_at_once(open_queue):
    here, there = open_queue(), open_queue()
    queued(here, places.FEW + 1)
    here.position(put(here))
    here._places._read_again_at = float("inf")
    for other in queued(there, 3):
        assert here.position(other) == there.position(other)
    assert here.position(put(here)) == places.FEW + 5


def test_submits_whose_shared_commit_was_rolled_back_are_counted_no_more(tmp_path):
    """SQLite; each has seen the ones before it wait, and their numbers are given to the next ones."""
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    create_tables(url)
    queue = Queue(url, lease_s=60, max_attempts=3)
    queued(queue, places.FEW)
    queue.position(put(queue))
    queue._places._read_again_at = float("inf")

    def submit():
        return put(queue, max_queue=limits.COUNTED + 1)

    def ends_the_transaction():
        twice = text("INSERT OR ROLLBACK INTO pauses VALUES ('x', 0, ''), ('x', 0, '')")
        queue._writer.write(lambda connection: connection.execute(twice))

    asked, writer = [], queue._writer
    with closing(sqlite3.connect(tmp_path / "queue.db")) as other, ThreadPoolExecutor(8) as pool:
        other.execute("BEGIN IMMEDIATE")
        for action in (*[submit] * 6, ends_the_transaction):
            asked.append(pool.submit(action))
            eventually(lambda: writer._turn.locked() and writer._wishes.qsize() == len(asked) - 1)
        other.execute("ROLLBACK")
    assert {type(one.exception()) for one in asked[1:]} == {IntegrityError}, "all but the first shared a commit"
    for expected in (places.FEW + 2, places.FEW + 3):
        with queue._store.reading() as connection:
            assert queue._places.waiting(connection) == expected
        put(queue)
    queue.close()
