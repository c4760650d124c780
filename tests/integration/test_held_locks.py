"""Locks of the database: nobody keeps one for ever, nobody waits for ever; submits of one key take turns."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg
import pytest
from sqlalchemy import make_url, text, update
from sqlalchemy.exc import DBAPIError, OperationalError

from server.api.observe import cannot_store
from server.caretaker import take_care
from server.errors import ConcurrentRequests, QueueFull
from server.files import FileStore
from server.queue.idempotency import Idempotency
from server.queue.migrations import create_tables
from server.queue.places import Places
from server.queue.queue import Queue
from server.queue.store import Store
from server.queue.submission import Submission, submit
from server.queue.tables import jobs
from tests.jobs import A, claim_one, put

SHORT_LEASE_S = 1.0
IMPATIENT = "-c idle_in_transaction_session_timeout=500ms -c lock_timeout=300ms"


@pytest.fixture
def patient(postgresql):
    """A database of PostgreSQL, by a URL that says nothing of patience."""
    url = postgresql.new_database()
    create_tables(url)
    return url


@pytest.fixture
def impatient(patient):
    """By a URL with an operator's own limits."""
    return make_url(patient).update_query_dict({"options": IMPATIENT}).render_as_string(hide_password=False)


def opened(url):
    return closing(Queue(url, lease_s=60, max_attempts=3))


def settings_of(url, *names):
    with closing(Store(url)) as store, store.reading() as connection:
        return [connection.scalar(text(f"SHOW {name}")) for name in names]


def test_every_session_has_limits_and_the_url_may_change_them(patient, impatient):
    names = ("idle_in_transaction_session_timeout", "lock_timeout")
    assert settings_of(patient, *names) == ["15s", "10s"]
    assert settings_of(impatient, *names) == ["500ms", "300ms"]


def test_a_process_that_freezes_inside_a_transaction_loses_its_locks(impatient):
    """row 8: frozen or cut off between an update and its commit; its job is given to another worker all the same."""
    with opened(impatient) as queue, closing(Store(impatient)) as frozen:
        put(queue)
        job = claim_one(queue)
        with pytest.raises(DBAPIError), frozen.writing() as connection:
            connection.execute(update(jobs).values(attempt=7))
            assert queue.rescue("w1") == 0, "its row is locked"
            limit = time.monotonic() + 20
            while not queue.rescue("w1"):
                assert time.monotonic() < limit, "the lock is kept for ever"
                time.sleep(0.05)
        again = claim_one(queue, "w2")
    assert (again.id, again.attempt) == (job.id, 2)


def test_who_waits_too_long_for_a_lock_is_told_to_try_again(patient, impatient):
    """And that is a 503 at the wire; nothing is changed."""
    plain = make_url(patient).set(drivername="postgresql").render_as_string(hide_password=False)
    with opened(impatient) as queue, psycopg.connect(plain) as holder:
        job = put(queue)
        holder.execute("UPDATE jobs SET attempt = 7")
        with pytest.raises(OperationalError) as caught:
            queue.cancel(job.id)
        assert cannot_store(caught.value)
        holder.rollback()
        assert queue.cancel(job.id) == "CANCELLATION_REQUESTED"


def test_a_migration_waits_longer_for_another(impatient):
    with closing(Store(impatient)) as first, ThreadPoolExecutor(1) as pool:
        with first.writing() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:place)"), {"place": 0x7E7A1C09})
            second = pool.submit(create_tables, impatient)
            time.sleep(1)
            assert not second.done()
        second.result()


# Submits of one key


@pytest.mark.parametrize(
    ("limit", "refusal"), [({"max_waiting": 1}, QueueFull), ({"max_unfinished": 1}, ConcurrentRequests)]
)
def test_a_limit_counts_what_is_being_stored_at_the_same_moment(database_url, open_queue, limit, refusal):
    with between_two_submits(database_url, open_queue(), **limit) as second, pytest.raises(refusal):
        second.result()


def test_two_at_the_same_moment_get_two_turns(database_url, open_queue):
    with between_two_submits(database_url, open_queue()) as second:
        assert second.result().turn == 1


def test_a_repeat_at_the_same_moment_is_the_same_request(database_url, open_queue):
    queue = open_queue()
    with between_two_submits(database_url, queue, idempotency=Idempotency("k", "h")) as second:
        assert second.result().seq == 1
    assert queue.census.take().states["IN_QUEUE"] == 1


@contextmanager
def between_two_submits(database_url, queue, **terms):
    """One submit is stored but not committed when another process begins the same; yields what becomes of it."""
    first = Submission(A, {"prompt": "x"}, owner="me", base_url="http://host", **terms)
    with closing(Store(database_url)) as store, ThreadPoolExecutor(1) as pool:
        with store.writing_durably() as connection:
            submit(connection, store.clock, Places(), first)
            second = pool.submit(put, queue, **terms)
            time.sleep(0.3)
            assert not second.done(), "it did not wait"
        yield second


def test_live_workers_speak_first_once_the_database_takes_writes_again(database_url, monkeypatch):
    """row 19: it was locked for longer than the lease, which nobody could renew: no attempt is lost for that."""
    monkeypatch.setattr("server.caretaker.RESCUE_EVERY_S", 0.01)
    create_tables(database_url)
    with (
        closing(Queue(database_url, lease_s=SHORT_LEASE_S, max_attempts=3)) as queue,
        closing(Store(database_url)) as locker,
    ):
        put(queue)
        job = claim_one(queue)
        with caring(queue), locker.writing() as connection:
            if not locker.is_sqlite:
                connection.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
            time.sleep(SHORT_LEASE_S + 1)
            connection.rollback()
            time.sleep(SHORT_LEASE_S / 3)
            assert queue.heartbeat(job).owned
        with caring(queue):
            time.sleep(SHORT_LEASE_S * 2)
        assert queue.get(job.id).state == "IN_QUEUE", "a silent one loses it all the same"


@contextmanager
def caring(queue):
    """A caretaker meanwhile, for whose workers a third of the lease is a heartbeat."""
    stop = threading.Event()
    care = threading.Thread(target=take_care, args=(queue, FileStore("memory://"), 1, stop, SHORT_LEASE_S / 3))
    care.start()
    try:
        yield
    finally:
        stop.set()
        care.join()
