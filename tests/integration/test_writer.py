"""Durable writes that share a commit: nobody's failure is another's, nobody waits for ever, every ack is a row."""

import multiprocessing
import resource
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, OperationalError

from server.queue.migrations import create_tables
from server.queue.queue import Queue
from server.queue.store import Store
from server.queue.writer import MOST, Writer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/q.db")
    with store.writing_durably() as connection:
        connection.execute(text("CREATE TABLE notes (word TEXT)"))
    yield store
    store.close()


def words(store: Store) -> list[str]:
    with store.reading() as connection:
        return sorted(connection.scalars(text("SELECT word FROM notes")))


def note(word: str, connection: Connection) -> str:
    connection.execute(text("INSERT INTO notes VALUES (:word)"), {"word": word})
    return word


def test_writes_that_wait_share_a_commit_and_a_failing_one_spares_the_others(store):
    commits, begun, go = [], threading.Event(), threading.Event()
    writer = Writer(store, lambda: commits.append(words(store)))

    def first(connection: Connection) -> str:
        begun.set()
        assert go.wait(30)
        return note("first", connection)

    def failing(connection: Connection) -> str:
        note("half", connection)
        raise KeyError("of its own making")

    with ThreadPoolExecutor(8) as pool:
        opening = pool.submit(writer.write, first)
        assert begun.wait(30)
        others = [pool.submit(writer.write, lambda connection, n=n: note(f"n{n}", connection)) for n in range(5)]
        bad = pool.submit(writer.write, failing)
        while writer._wishes.qsize() < 6:
            continue
        go.set()
        assert opening.result() == "first"
        assert [one.result() for one in others] == [f"n{n}" for n in range(5)]
        with pytest.raises(KeyError, match="own making"):
            bad.result()
    assert commits == [["first"], ["first", "n0", "n1", "n2", "n3", "n4"]]


def test_a_write_that_the_database_refuses_is_told(store):
    writer = Writer(store, lambda: None)
    assert writer.write(lambda connection: note("kept", connection)) == "kept"

    def into_nothing(connection: Connection) -> None:
        connection.execute(text("INSERT INTO nowhere VALUES (1)"))

    with pytest.raises(OperationalError):
        writer.write(into_nothing)
    assert words(store) == ["kept"]


def test_trouble_after_the_commit_is_no_refusal_and_no_end_of_writing(store):
    commits = []

    def fails(words_now: list[str]) -> None:
        commits.append(words_now)
        raise RuntimeError("the bells are broken")

    writer = Writer(store, lambda: fails(words(store)))
    assert [writer.write(lambda connection, word=word: note(word, connection)) for word in "ab"] == ["a", "b"]
    assert commits == [["a"], ["a", "b"]]


def test_a_transaction_that_sqlite_ended_by_itself_is_not_called_committed(store):
    """row 18: SQLite rolls all of it back when a disk is full, and Python's driver then commits nothing, silently."""
    for writing in (store.writing, store.writing_durably):
        with pytest.raises(OperationalError, match="rolled"), writing() as connection:
            note("lost", connection)
            with suppress(IntegrityError):
                connection.execute(text("INSERT OR ROLLBACK INTO notes (rowid, word) VALUES (1, 'x'), (1, 'y')"))
    assert words(store) == []
    with store.writing() as connection:
        note("kept", connection)
    assert words(store) == ["kept"]


LARGE, SMALL = "x" * 60_000, "x" * 200
ROOM = 400_000
"""Bytes that a file may have: less than the inputs of the burst, which together are more than SQLite's cache holds."""


def burst(url: str) -> tuple[set[str], set[str], str]:
    """In a process of its own: submits that share a commit for which there is no room, and one when there is again.

    Returns:
        the ids that were acknowledged, how the others were refused, and the id of the later one.
    """
    queue = Queue(url, lease_s=60, max_attempts=3)
    free = resource.getrlimit(resource.RLIMIT_FSIZE)

    def submit(prompt: str) -> str:
        return queue.put("test/a", {"prompt": prompt}, owner="me", base_url="http://host").id

    prompts = [LARGE] * 35 + [SMALL] * 3
    with closing(sqlite3.connect(queue._store.sqlite_file)) as other, ThreadPoolExecutor(len(prompts) + 1) as pool:
        other.execute("BEGIN IMMEDIATE")
        opening = pool.submit(submit, "first")
        while not queue._writer._turn.locked() or queue._writer._wishes.qsize():
            continue
        asked: list[Future[str]] = [opening]
        for number, prompt in enumerate(prompts, 1):
            asked.append(pool.submit(submit, prompt))
            while queue._writer._wishes.qsize() < number:
                continue
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, free[1]))
        other.execute("ROLLBACK")
        wait(asked)
    resource.setrlimit(resource.RLIMIT_FSIZE, free)
    acknowledged = {one.result() for one in asked if one.exception() is None}
    refusals = {type(error).__name__ for one in asked if (error := one.exception())}
    later = submit(SMALL)
    queue.close()
    return acknowledged, refusals, later


def test_on_a_full_disk_every_acknowledged_request_is_stored_and_no_other(tmp_path):
    """row 18: in a shared commit that outgrows SQLite's cache, too; and the next request finds the queue in order."""
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    create_tables(url)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        acknowledged, refusals, later = process.submit(burst, url).result()
    with closing(sqlite3.connect(tmp_path / "queue.db")) as database:
        stored = {job_id for (job_id,) in database.execute("SELECT id FROM jobs")}
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert stored == acknowledged | {later}
    assert refusals == {"OperationalError"}


def test_more_writes_than_one_commit_holds_all_get_their_answer(store):
    commits, expected = [], [f"n{number:03}" for number in range(3 * MOST)]
    writer = Writer(store, lambda: commits.append(len(words(store))))
    with closing(sqlite3.connect(store.sqlite_file)) as other, ThreadPoolExecutor(len(expected)) as pool:
        other.execute("BEGIN IMMEDIATE")
        asked = [pool.submit(writer.write, lambda connection, word=word: note(word, connection)) for word in expected]
        while not writer._turn.locked() or writer._wishes.qsize() < 2 * MOST:
            continue
        other.execute("ROLLBACK")
        assert [one.result() for one in asked] == expected
    assert words(store) == expected
    assert max(after - before for before, after in pairwise([0, *commits])) == MOST
