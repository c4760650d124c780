"""The wake-up on PostgreSQL: LISTEN/NOTIFY on a connection of its own."""

import threading
from collections.abc import Callable
from typing import Literal

import psycopg
from sqlalchemy import URL

from server.queue.store import readable

Topic = Literal["work", "news"]
"""work: a job or a webhook may be taken. news: a job's state or log changed."""

LOOK_S = 1.0
"""How often a listener looks whether it should end, and how soon it reconnects."""


def hear_notifications(url: URL, topic: Topic, heard: Callable[[], None], closed: threading.Event) -> None:
    """Call `heard` for each notification, until `closed` is set; reconnect when the database was away."""
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    while not closed.is_set():
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(f"LISTEN veraicon_{topic}")
                while not closed.is_set():
                    for _ in connection.notifies(timeout=0):
                        heard()
                    readable(connection, LOOK_S)  # psycopg's own waiting wakes up ten times as often
        except psycopg.OperationalError:
            closed.wait(LOOK_S)
