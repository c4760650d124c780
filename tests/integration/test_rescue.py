"""Rescue: what looking for lost jobs costs, and which come first."""

import re
from dataclasses import replace

import pytest
from sqlalchemy import event

from server.queue import rescue
from tests.jobs import claim_one, put


def plan_of(store, ask):
    """How SQLite answers the statements that `ask` sends, a line for each table it looks into."""
    asked = []

    def note(_connection, _cursor, statement, values, *_):
        asked.append((statement, values))

    event.listen(store._quick, "before_cursor_execute", note)
    ask()
    event.remove(store._quick, "before_cursor_execute", note)
    with store.reading() as connection:
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {told}", values).all() for told, values in asked]
    return [row.detail for plan in plans for row in plan if row.detail.startswith(("SCAN", "SEARCH"))]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_look_of_every_second_is_answered_by_indexes(queue):
    """However many requests wait with a start timeout, run or are kept: ranges, no table and no index as a whole."""
    put(queue, start_timeout_s=60)
    plan = plan_of(queue._store, lambda: rescue.needed(queue._store, "w1"))
    looks = [detail for detail in plan if "jobs" in detail]
    assert len(looks) == 4
    assert all(re.search(r"^SEARCH jobs USING .*INDEX \w+ \((clock|worker)", detail) for detail in looks), plan


@pytest.mark.parametrize("elsewhere", ["", "zzz"], ids=["before", "after"])
def test_a_lease_of_another_clock_is_over(queue, monkeypatch, elsewhere):
    """As after a reboot, whatever the clocks are called."""
    put(queue)
    claim_one(queue)
    clock = replace(queue._clock, name=elsewhere)
    monkeypatch.setattr(queue._store, "clock", clock)
    monkeypatch.setattr(queue, "_clock", clock)
    assert queue.rescue() == 1


def test_what_a_dead_worker_held_comes_before_older_losses(queue, monkeypatch):
    """Nobody will name that worker again, the others are lost still at the next look."""
    monkeypatch.setattr(rescue, "BATCH", 2)
    late = [put(queue, start_timeout_s=0) for _ in range(3)]
    mine = put(queue)
    [job] = queue.claim("w1", [mine.endpoint])
    assert job.id == mine.id
    assert queue.rescue("w1") == 2
    assert queue.get(mine.id).state == "IN_QUEUE"
    assert [queue.get(job.id).state for job in late].count("IN_QUEUE") == 2
