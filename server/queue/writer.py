"""Writer: durable writes of one process share their fsync: what waits while one commit runs goes into the next."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar

import structlog
from sqlalchemy import Connection

from server.queue.store import Store, rolled_back

MOST = 64
"""Writes in one transaction, so that other processes get their turn."""

Written = TypeVar("Written")
Action = Callable[[Connection], Written]
Outcome = Callable[[], Any]
"""Returns what the action returned, or raises what it raised."""

log = structlog.get_logger()


@dataclass
class Wish:
    """One write; `outcome` is there once that is on the disk, or refused."""

    action: Action[Any]
    outcome: Outcome | None = None


class Writer:
    """Whoever writes while another one does waits for its turn; the next one whose turn it is writes for all of them.

    On SQLite alone: writers of one process would only wait for its lock.

    Args:
        after: called after each commit, before anybody is told that the write is done. Its trouble is only logged.
    """

    def __init__(self, store: Store, after: Callable[[], None]) -> None:
        self._store, self._after = store, after
        self._wishes = queue.SimpleQueue[Wish]()
        self._turn = threading.Lock()

    def write(self, action: Action[Written]) -> Written:
        """What `action` returns, once that is on the disk. Raises what it raises, and then it wrote nothing.

        The action may be run by another thread.
        """
        wish = Wish(action)
        self._wishes.put(wish)
        with self._turn:
            while wish.outcome is None:
                self._commit([self._wishes.get() for _ in range(min(MOST, self._wishes.qsize()))])
        return wish.outcome()

    def _commit(self, batch: Sequence[Wish]) -> None:
        """All or nothing on the disk; but one that fails by itself spares the others."""
        try:
            with self._store.writing_durably() as connection:
                alone = len(batch) == 1  # then the transaction itself is all or nothing
                outcomes = [(act if alone else attempt)(wish.action, connection) for wish in batch]
        except BaseException as error:  # nothing was stored: everybody is told so
            for wish in batch:
                wish.outcome = partial(refuse, error)
            if not isinstance(error, Exception):  # nobody may wait for ever because this thread was stopped
                raise
            return
        try:
            self._after()
        except Exception as error:  # the writes are on the disk all the same
            log.error("a commit was not made known", exc_info=error)
        for wish, outcome in zip(batch, outcomes, strict=True):
            wish.outcome = outcome


def act(action: Action[Any], connection: Connection) -> Outcome:
    written = action(connection)
    return lambda: written


def refuse(error: BaseException) -> NoReturn:
    raise error


def attempt(action: Action[Any], connection: Connection) -> Outcome:
    """`act` inside a savepoint, so that a refusal is told to the one whom it concerns.

    Raises:
        SQLAlchemyError: the whole transaction is lost, with what others wrote in it.
    """
    savepoint = connection.begin_nested()
    try:
        told = act(action, connection)
    except Exception as error:
        if rolled_back(connection):
            raise
        savepoint.rollback()
        return partial(refuse, error)
    savepoint.commit()
    return told
