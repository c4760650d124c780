"""A notification that PostgreSQL could not deliver costs a second, and the listener comes back."""

import time

import psycopg

from server.queue.migrations import create_tables
from server.queue.queue import Queue
from tests.jobs import claim_one, put
from tests.worker_process import eventually

LISTENERS = "FROM pg_stat_activity WHERE query = 'LISTEN veraicon_work' AND datname = current_database()"


def test_a_job_whose_notification_was_lost_begins_within_a_second(postgresql):
    """row 25: the connection that listened is gone at the moment of the submit."""
    url = postgresql.new_database()
    create_tables(url)
    worker, client = (Queue(url, lease_s=3, max_attempts=3) for _ in range(2))
    rings = worker.rings("work")
    next(rings)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as operator:

        def listening():
            return operator.execute(f"SELECT count(*) {LISTENERS}").fetchone() == (1,)

        eventually(listening)
        assert operator.execute(f"SELECT pg_terminate_backend(pid) {LISTENERS}").fetchall() == [(True,)]
        began, job = time.monotonic(), put(client)
        next(rings)
        assert claim_one(worker).id == job.id
        waited_s = time.monotonic() - began
        eventually(listening)
    print(f"without its listener the job began after {waited_s:.2f} s")
    assert waited_s < 5, "the safety poll looks every second; the rest is a busy machine"
    client.close()
    worker.close()
