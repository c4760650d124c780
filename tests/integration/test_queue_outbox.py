"""The queue's rules, the same on both databases: outbox, keys, workers, pruning; where the database may live."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, select, text

from server.queue import migrations
from server.queue.job import LogLine, WorkerState
from server.queue.keyring import KeyExists
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from server.queue.store import Store, StoreError, filesystem_of, refuse_network_filesystem
from server.queue.tables import metadata, outbox
from tests.integration.conftest import LEASE_S
from tests.jobs import claim_one, put

# outbox


def test_a_due_webhook_is_given_to_one_sender(open_queue):
    queues = [open_queue() for _ in range(3)]
    job = put(queues[0], finished=(200, {}, None), webhook="http://w/1")
    with ThreadPoolExecutor(3) as pool:
        due = [webhook for webhooks in pool.map(Queue.due_webhooks, queues) for webhook in webhooks]
    assert [(webhook.job_id, webhook.url, webhook.tries) for webhook in due] == [(job.id, "http://w/1", 1)]


def test_a_failed_webhook_is_due_again_later_and_a_delivered_one_never(queue):
    put(queue, finished=(200, {}, None), webhook="http://w/")
    [webhook] = queue.due_webhooks()
    queue.webhook_failed(webhook, "answered 500", 0.2)
    assert queue.due_webhooks() == []
    time.sleep(0.3)
    [again] = queue.due_webhooks()
    assert again.tries == 2
    queue.webhook_delivered(webhook)  # the first sender's late news changes nothing
    queue.webhook_failed(again, "answered 500", 0.0)
    [last] = queue.due_webhooks()
    queue.webhook_delivered(last)
    time.sleep(0.1)
    assert queue.due_webhooks() == []


def test_a_webhook_whose_sender_died_is_soon_sent_again_when_it_was_the_first_try(queue, database_url):
    """A sender is given as long as the timeout of its try, and a little more."""
    put(queue, finished=(200, {}, None), webhook="http://w/")
    store = Store(database_url)
    for most_s, least_s in ((20, 15), (180, 120)):
        [webhook] = queue.due_webhooks()
        with store.reading() as connection:
            left_s = connection.scalar(select(outbox.c.deadline - store.clock.now()))
        assert least_s < left_s <= most_s
        queue.webhook_failed(webhook, "answered 500", 0.0)
    store.close()


# keys and workers


def test_a_key_belongs_to_its_name_until_it_is_revoked(queue):
    keys = queue.keys
    assert not keys.any_made()
    keys.add("id-1", "studio", "hash", ("run", "read"))
    found = keys.find("hash")
    assert (found.name, found.scopes) == ("studio", ("run", "read"))
    assert keys.find("other") is None
    assert keys.revoke("studio") == 1
    assert keys.revoke("studio") == 0
    assert keys.find("hash") is None
    assert keys.any_made(), "revoking the last key must not open the server"
    with pytest.raises(KeyExists):
        keys.add("id-2", "studio", "another hash", ("run",))


def test_a_name_may_have_several_keys_and_each_is_revoked_by_its_id(queue):
    keys = queue.keys
    keys.add("id-1", "studio", "one", ("run", "read"))
    keys.add("id-2", "studio", "two", ("admin",), another=True)
    with pytest.raises(KeyExists):
        keys.add("id-2", "other", "three", ("run",))

    assert keys.revoke("id-1") == 1
    assert keys.find("one") is None
    assert keys.find("two").scopes == ("admin",)


def test_the_last_use_of_a_key_is_noted_once_a_minute(queue):
    keys = queue.keys
    keys.add("id-1", "studio", "hash", ("run",))
    assert keys.every()[0].used_at is None

    first = noted(queue, lambda: keys.find("hash"))
    keys.find("hash")
    keys._notes.submit(lambda: None).result()  # the notes are written one after the other: none is on its way any more
    assert keys.every()[0].used_at == first
    assert abs(first - time.time()) < 60


def noted(queue: Queue, use) -> float:
    use()
    limit = time.monotonic() + 10
    while (used_at := queue.keys.every()[0].used_at) is None:
        assert time.monotonic() < limit, "the use of a key was never written"
        time.sleep(0.01)
    return used_at


def test_keys_made_by_an_older_program_keep_working(database_url):
    """Their own ids are unknown to the server: only the hash is stored."""
    store = Store(database_url)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    with store.writing_durably() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        old = "INSERT INTO keys (name, key_hash, created_at) VALUES ('anna', :hash, 5.0)"
        connection.execute(text(old), {"hash": "ab" * 32})
    store.close()
    create_tables(database_url)
    queue = Queue(database_url, lease_s=LEASE_S, max_attempts=3)

    found = queue.keys.find("ab" * 32)
    queue.close()
    assert (found.id, found.name, found.scopes) == ("ab" * 18, "anna", ("run", "read"))


def test_a_silent_worker_counts_as_gone(queue):
    queue.publish_worker(WorkerState("host:0", "host", "cpu", "loading", "", 0))
    queue.publish_worker(WorkerState("host:0", "host", "cpu", "ready", "offers a", 0))
    [state] = queue.workers()
    assert (state.name, state.state, state.message) == ("host:0", "ready", "offers a")
    time.sleep(LEASE_S + 0.1)
    assert queue.workers() == []


def test_a_worker_that_leaves_is_forgotten(queue):
    queue.publish_worker(WorkerState("host:0", "host", "cpu", "ready", "", 0))
    queue.forget_worker("host:0")
    assert queue.workers() == []


# prune and migrate


def test_only_old_settled_requests_are_pruned(queue):
    told, untold, waiting = put(queue), put(queue, webhook="http://w/"), put(queue)
    for _ in range(2):
        job = claim_one(queue)
        queue.log(job, LogLine(1.0, "hello"))
        queue.finish(job, 200, {})
    assert queue.prune(3600, print) == 0
    assert queue.prune(-1, print) == 1
    assert [queue.get(job.id) is None for job in (told, untold, waiting)] == [True, False, False]
    assert queue.logs(told.id) == []


def test_a_pruned_sqlite_file_gives_its_space_back(tmp_path):
    """rule 10."""
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    create_tables(url)
    queue = Queue(url, lease_s=1, max_attempts=1)
    for _ in range(60):
        put(queue, finished=(200, {"text": "x" * 60_000}, None))
    assert pages(queue) > 800
    assert queue.prune(-1, print) == 60
    assert pages(queue) < 200
    queue.close()


def pages(queue: Queue) -> int:
    with queue._store.reading() as connection:
        return connection.scalar(text("PRAGMA page_count"))


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(queue, database_url):
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_creating_twice_at_once_is_harmless(database_url):
    queues = [Queue(database_url, lease_s=1, max_attempts=1) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(create_tables, [database_url] * 3))
    put(queues[0])
    for queue in queues:
        queue.close()


def test_tables_of_a_newer_program_are_refused(queue, database_url):
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match="another version"):
        create_tables(database_url)


def test_a_damaged_database_is_refused_and_left_as_it_is(tmp_path):
    file = tmp_path / "queue.db"
    file.write_bytes(b"this was a database once" * 500)
    before = file.read_bytes()
    with pytest.raises(StoreError, match="restore a backup"):
        create_tables(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_a_database_that_does_not_answer_is_named():
    with pytest.raises(StoreError, match="cannot be used"):
        create_tables("postgresql+psycopg://me:secret@127.0.0.1:9/queue")


# where SQLite may live

MOUNTS = """\
22 1 0:20 / / rw - overlay overlay rw
23 22 0:21 / /mnt rw - ext4 /dev/sda rw
24 23 0:22 / /mnt/my\\040share rw shared:1 - nfs4 server:/export rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"), [("/srv/x", "overlay"), ("/mnt/x", "ext4"), ("/mnt/my share/x", "nfs4"), ("/mnty", "overlay")]
)
def test_the_file_system_of_a_folder_is_that_of_its_nearest_mount(tmp_path, folder, kind):
    assert filesystem_of(Path(folder), MOUNTS) == kind


def test_sqlite_on_a_network_file_system_is_refused(tmp_path):
    with pytest.raises(StoreError, match="nfs4"):
        refuse_network_filesystem(Path("/mnt/my share/data"), MOUNTS)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql+pymysql://host/db"])
def test_a_database_that_cannot_hold_a_queue_is_refused(url):
    with pytest.raises(StoreError):
        Queue(url, lease_s=1, max_attempts=1)
