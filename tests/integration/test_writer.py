"""Durable writes that share a commit: nobody's failure is another's, and nobody waits for ever."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from server.queue.store import Store
from server.queue.writer import Writer


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
    writer.close()


def test_a_write_that_the_database_refuses_is_told(store):
    writer = Writer(store, lambda: None)
    assert writer.write(lambda connection: note("kept", connection)) == "kept"

    def into_nothing(connection: Connection) -> None:
        connection.execute(text("INSERT INTO nowhere VALUES (1)"))

    with pytest.raises(OperationalError):
        writer.write(into_nothing)
    assert words(store) == ["kept"]
    writer.close()


def test_after_the_end_a_late_write_still_gets_its_answer(store):
    writer = Writer(store, lambda: None)
    for word in ("before", "after"):
        assert writer.write(lambda connection, word=word: note(word, connection)) == word
        writer.close()
    assert words(store) == ["after", "before"]
