"""/ready: whether a request will be served, and if not why, and what to do about it."""

import sqlite3
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from server.queue.job import Condition, WorkerState
from server.queue.queue import Queue
from tests.app import running_app

ENDPOINT = "fal-ai/pulid"


def say(queue: Queue, name: str, state: Condition, message: str) -> None:
    queue.publish_worker(WorkerState(name, "host", "cuda", state, message, 0))


def asked(client: Any) -> tuple[int, dict[str, Any]]:
    answer = client.get("/ready")
    return answer.status_code, answer.json()


def test_without_a_worker_it_is_told_how_to_start_one(tmp_path):
    with running_app(tmp_path) as (client, _):
        status, body = asked(client)
    assert (status, body["ready"], body["workers"]) == (503, False, [])
    assert body["reasons"] == ["no worker is running: start one with `veraicon worker` or `veraicon serve`"]


@pytest.mark.parametrize(
    ("state", "message", "remedy"),
    [
        ("loading", "loading the models, 1 of 2 done", "wait"),
        ("failed", "unet.safetensors is missing: run `veraicon weights pull`", "log"),
        ("quarantined", "left alone until 10:00:00 UTC after 5 failures in a row", "look at that GPU"),
    ],
)
def test_a_worker_that_is_not_ready_is_named_with_its_reason_and_a_remedy(tmp_path, state, message, remedy):
    with running_app(tmp_path) as (client, queue):
        say(queue, "studio:1", state, message)
        status, body = asked(client)
    assert status == 503
    assert body["workers"] == [{"name": "studio:1", "device": "cuda", "state": state, "reason": message}]
    [reason] = body["reasons"]
    assert f"worker studio:1 on cuda is {state}: {message}" in reason
    assert remedy in reason.rpartition("->")[2]


def test_one_ready_worker_is_enough_and_the_other_is_shown(tmp_path):
    with running_app(tmp_path) as (client, queue):
        say(queue, "studio:0", "ready", "offers everything")
        say(queue, "studio:1", "quarantined", "left alone")
        status, body = asked(client)
    assert (status, body["reasons"]) == (200, [])
    assert [worker["state"] for worker in body["workers"]] == ["ready", "quarantined"]


def test_a_paused_endpoint_is_told_and_is_no_reason(tmp_path):
    with running_app(tmp_path) as (client, queue):
        say(queue, "studio:0", "ready", "offers everything")
        queue.pauses.pause(ENDPOINT, "new weights")
        status, body = asked(client)
    assert status == 200
    assert [(pause["endpoint"], pause["reason"]) for pause in body["paused"]] == [(ENDPOINT, "new weights")]


def test_a_queue_that_does_not_answer_is_told_and_so_is_its_return(tmp_path):
    """Nothing of the statement or the database's own words is in the answer."""
    with running_app(tmp_path) as (client, queue), sqlite3.connect(tmp_path / "queue.db") as database:
        say(queue, "studio:0", "ready", "offers everything")
        database.execute("ALTER TABLE workers RENAME TO hidden")
        database.commit()
        status, body = asked(client)
        assert status == 503
        assert body["reasons"][0].startswith("the queue cannot be reached (OperationalError): look whether")
        database.execute("ALTER TABLE hidden RENAME TO workers")
        database.commit()
        assert asked(client)[0] == 200
    database.close()


def test_a_read_only_postgresql_is_told(tmp_path, postgresql):
    """row 19: a server that has become a standby, or was set to read only."""
    url = postgresql.new_database()
    name = make_url(url).database
    with running_app(tmp_path, database_url=url) as (client, queue):
        say(queue, "studio:0", "ready", "offers everything")
        with psycopg.connect(postgresql.url, autocommit=True) as operator:
            operator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            operator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                [name],
            )
        status, body = asked(client)
    assert status == 503
    assert "PostgreSQL is read-only" in body["reasons"][0]
