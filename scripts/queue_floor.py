"""The floor below the queue: what a database itself takes for a durable commit and for a question."""

import sqlite3
import time
from collections.abc import Callable, Iterator

import psycopg
from sqlalchemy import make_url

from scripts.load import quantile

TIMES = 300


def floor(url: str) -> Iterator[tuple[str, float]]:
    """Name and milliseconds, through the bare driver, on a database that has the queue's tables."""
    for name, action in sqlite_actions(url) if url.startswith("sqlite") else postgresql_actions(url):
        took = [clocked(lambda n=n: action(n)) for n in range(TIMES)]  # noqa: B023 - called here, now
        for share, word in ((0.5, "p50"), (0.99, "p99")):
            yield f"floor: {name} {word} ms", quantile(took, share)


def sqlite_actions(url: str) -> Iterator[tuple[str, Callable[[int], object]]]:
    connection = sqlite3.connect(make_url(url).database or "", isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    insert = "INSERT INTO pauses (endpoint, since, reason) VALUES (?, 0, '')"
    yield "durable commit of a row", lambda n: connection.execute(insert, [str(n)])
    yield "question", lambda _: connection.execute("SELECT 1").fetchone()
    connection.execute("DELETE FROM pauses")
    connection.close()


def postgresql_actions(url: str) -> Iterator[tuple[str, Callable[[int], object]]]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        insert = "INSERT INTO pauses (endpoint, since, reason) VALUES (%s, 0, '')"
        yield "durable commit of a row", lambda n: connection.execute(insert, [str(n)])
        yield "question", lambda _: connection.execute("SELECT 1").fetchone()
        connection.execute("DELETE FROM pauses")


def clocked(action: Callable[[], object]) -> float:
    """Milliseconds that it took."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000
