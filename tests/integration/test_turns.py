"""Keys take turns, the same on SQLite and on PostgreSQL: docs/decisions/0036-turns.md."""

import random
import time
from collections import Counter

from sqlalchemy import insert, text, update

from server.queue import turns
from server.queue.tables import jobs
from tests.jobs import A, B, put


def owners(queue, claims, endpoints=(A, B)):
    """Whose jobs are started by so many claims."""
    return "".join(job.owner for _ in range(claims) for job in queue.claim("w", endpoints))


def flood(queue, owner, number=20, **more):
    return [put(queue, owner=owner, **more) for _ in range(number)]


def test_a_flood_of_one_key_costs_another_key_one_place(queue):
    """row 42: a job of a quiet key starts second, whatever waits already."""
    flood(queue, "f")
    put(queue, owner="q")
    assert owners(queue, 4) == "fqff"


def test_two_floods_alternate_from_the_second_ones_beginning(queue):
    """row 42: neither is paid back for what it got before."""
    flood(queue, "f")
    assert owners(queue, 6) == "ffffff"
    flood(queue, "g")
    assert owners(queue, 8) == "fgfgfgfg"


def test_a_keys_own_requests_keep_their_order(queue):
    mine = flood(queue, "f", 8)
    for other in "gh":
        flood(queue, other, 3)
    started = [job.id for _ in range(14) for job in queue.claim("w", [A]) if job.owner == "f"]
    assert started == [job.id for job in mine]


def test_a_job_of_a_quiet_key_waits_for_at_most_one_job_of_each_other_key(queue):
    """row 42: the bound, in 120 claims among seven keys that send as they like, five of them far too much."""
    chance, keys = random.Random(8), "abcdefg"
    waiting, bounds, claims = Counter(), {}, 0
    for _ in range(400):
        owner = chance.choices(keys, weights=(30, 20, 20, 10, 10, 1, 1))[0]
        if chance.random() < 0.6 and waiting[owner] < 60:
            job = put(queue, chance.choice((A, B)), owner=owner)
            if waiting[owner] == 0:
                bounds[job.id] = claims + len(keys)
            waiting[owner] += 1
        else:
            for job in queue.claim("w", [A, B]):
                claims += 1
                waiting[job.owner] -= 1
                assert claims <= bounds.get(job.id, claims)
    assert claims > 120
    assert len(bounds) > 12


def test_a_key_that_was_served_long_ago_has_no_debt(queue):
    """After a flood has drained everybody begins anew."""
    flood(queue, "f")
    running = [job for _ in range(20) for job in queue.claim("w", [A])]
    flood(queue, "g", 3)
    put(queue, owner="f")
    assert owners(queue, 2) == "gf"
    assert all(queue.finish(job, 200, {}) for job in running)


def test_a_rescued_job_is_among_the_next_however_high_its_turn_was(queue):
    """Rescued, it neither waits until the others' turns are as high, nor gives its key a head start."""
    flood(queue, "f", 8)
    owners(queue, 6)
    assert [len(queue.claim("dies", [A])) for _ in range(2)] == [1, 1]
    flood(queue, "g", 5)
    queue.rescue(worker="dies")
    put(queue, owner="q")
    assert owners(queue, 8) == "ffgqgggg"


def test_a_rescued_job_of_long_ago_holds_no_turn_back(queue):
    flood(queue, "f", 20)
    assert len(queue.claim("dies", [A])) == 1
    owners(queue, 10)
    queue.rescue(worker="dies")
    flood(queue, "q", 5)
    assert owners(queue, 7) == "ffqfqfq"


def test_a_given_back_job_runs_before_its_keys_later_ones(queue):
    mine = flood(queue, "f", 5)
    [first] = queue.claim("w", [A])
    [second] = queue.claim("w", [A])
    assert queue.release(second)
    assert queue.release(first)
    assert [job.id for _ in range(5) for job in queue.claim("w", [A])] == [job.id for job in mine]


# low priority


def aged(queue, job, seconds):
    with queue._store.writing() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(created_at=time.time() - seconds))


def test_a_low_priority_job_becomes_normal_when_it_has_waited_long_enough(queue):
    """18, row 42: `low` starts after `normal`, but some day it starts, whatever else comes."""
    old, young = put(queue, owner="l", priority=1), put(queue, owner="l", priority=1)
    aged(queue, old, 700)
    flood(queue, "f")
    assert queue.promote(600) == 1
    assert queue.promote(600) == 0
    assert owners(queue, 3) == "lff"
    assert (queue.get(old.id).priority, queue.get(young.id).priority) == (0, 1)
    assert owners(queue, 19) == "f" * 18 + "l"


def test_a_promoted_flood_takes_turns_with_the_others(queue):
    for job in flood(queue, "l", 120, priority=1):
        aged(queue, job, 700)
    flood(queue, "f", 5)
    assert queue.promote(600) == 120
    put(queue, owner="q")
    assert owners(queue, 7) == "lfqlflf"


# pauses


def test_a_paused_flood_holds_no_turn_back(queue):
    """While B is paused its low turns give nobody's next requests a head start."""
    flood(queue, "p", 30, endpoint=B)
    queue.pauses.pause(B)
    flood(queue, "f", 20)
    assert owners(queue, 10) == "f" * 10
    flood(queue, "q", 20)
    assert owners(queue, 6) == "fqfqfq"


def test_after_the_pause_all_take_turns_again(queue):
    flood(queue, "p", 10, endpoint=B)
    queue.pauses.pause(B)
    flood(queue, "f", 20)
    owners(queue, 10)
    queue.pauses.resume(B)
    assert Counter(owners(queue, 10)) == {"p": 5, "f": 5}


MANY, FEW = 3000, 1000


def effort(queue):
    """Of finding the next turn of A: SQLite's instructions, or the rows that PostgreSQL looked at in vain."""
    told = turns.NOW_AND_OWN.params(owner="me", endpoint=A, priority=0)
    with queue._store.writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("ANALYZE jobs, pauses"))
            plan = told.compile(connection, compile_kwargs={"literal_binds": True})
            lines = connection.execute(text(f"EXPLAIN ANALYZE {plan}")).scalars()
            return sum(int(line.split(":")[1]) for line in lines if "Rows Removed" in line)
        steps, driver = [], connection.connection.dbapi_connection
        driver.set_progress_handler(lambda: steps.append(1), 1)
        connection.execute(told).one()
        driver.set_progress_handler(None, 1)
        return len(steps)


def test_a_submit_reads_nothing_of_a_flood_that_is_paused(queue):
    """Neither of everybody's, nor of its own key's."""
    first = {name: value for name, value in vars(put(queue, B)).items() if name != "seq"}
    with queue._store.writing() as connection:
        connection.execute(insert(jobs), [first | {"id": str(turn), "turn": turn} for turn in range(1, MANY)])
    queue.pauses.pause(B)
    assert queue.census.take().states["IN_QUEUE"] == MANY
    assert effort(queue) < FEW
