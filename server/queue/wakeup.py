"""Wake-up between processes: Unix datagrams or LISTEN/NOTIFY. Only a hint: a lost one costs a second."""

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

from server.queue.notifications import Topic, hear_notifications
from server.queue.store import Store

POLL_S = 1.0
"""The safety poll: how long a waiter sleeps at most before it looks by itself."""
LOOK_S = 5.0
"""How often a listener looks whether its socket is still there."""


class Bell:
    """Counts the rings of one topic in this process; any number of threads may wait for the next one."""

    def __init__(self) -> None:
        self._changed, self._rings = threading.Condition(), 0

    def ring(self) -> None:
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    def rings(self, poll_s: float = POLL_S) -> Iterator[None]:
        """Yield now, and again after each ring or `poll_s`. A ring while the caller is busy is not missed."""
        while True:
            seen = self._rings
            yield
            with self._changed:
                self._changed.wait_for(lambda: self._rings != seen, timeout=poll_s)  # noqa: B023 - waits here, now


class Wakeup:
    """Rings and bells of one process. `bell` starts listening on first use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bells: dict[Topic, Bell] = {}
        self._starting, self._closed = threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []

    def bell(self, topic: Topic) -> Bell:
        with self._starting:
            if topic not in self._bells:
                self._bells[topic] = Bell()
                self._listen(topic, self._bells[topic].ring)
            return self._bells[topic]

    def ring_with(self, connection: Connection, *topics: Topic) -> None:
        """On PostgreSQL, ring when the connection's transaction commits."""
        if not self._store.is_sqlite:
            connection.execute(ringing(topics))

    def columns(self, *topics: Topic) -> Sequence[ColumnElement[Any]]:
        """On PostgreSQL: what a statement returns beside other columns, to ring when it is committed."""
        return [] if self._store.is_sqlite else notifications(topics)

    def ring(self, topic: Topic) -> None:
        """On SQLite, ring now; to be called after the commit, which no trouble with the bells may hide."""
        if self._store.is_sqlite:
            with contextlib.suppress(OSError):
                ring_sockets(self._folder, topic)

    def close(self) -> None:
        self._closed.set()
        for topic in self._bells:
            self.ring(topic)  # a listener on a socket sleeps until something comes
        for thread in self._threads:
            thread.join(POLL_S)

    @property
    def _folder(self) -> Path:
        return self._store.sqlite_file.absolute().with_suffix(".wakeup")

    def _listen(self, topic: Topic, heard: Callable[[], None]) -> None:
        if self._store.is_sqlite:
            target, where = hear_sockets, self._folder
        else:
            target, where = hear_notifications, self._store.url
        arguments = (where, topic, heard, self._closed)
        thread = threading.Thread(target=target, args=arguments, name=f"wakeup-{topic}", daemon=True)
        self._threads.append(thread)
        thread.start()


def notifications(topics: Sequence[Topic]) -> list[ColumnElement[Any]]:
    return [func.pg_notify(f"veraicon_{topic}", "") for topic in topics]


@cache
def ringing(topics: Sequence[Topic]) -> Select[*tuple[Any, ...]]:
    """Composed once: that takes longer than the database does."""
    return select(*notifications(topics))


@contextlib.contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Another name of `folder`: a socket's path has 108 bytes, which a data folder may exceed."""
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def hear_sockets(folder: Path, topic: Topic, heard: Callable[[], None], closed: threading.Event) -> None:
    """Call `heard` for each datagram, until `closed` is set and one more comes; a deleted socket is made again."""
    name = f"{topic}.{os.getpid()}.{secrets.token_hex(4)}"
    while not closed.is_set():
        with short_path(folder) as short, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.settimeout(LOOK_S)
            listener.bind(f"{short}/{name}")
            while not closed.is_set() and Path(f"{short}/{name}").exists():
                with contextlib.suppress(TimeoutError):
                    listener.recv(1)
                    heard()
    (folder / name).unlink(missing_ok=True)


def ring_sockets(folder: Path, topic: Topic) -> None:
    """Send one datagram to each listener; a dead one's socket is removed, a full one has enough rings already."""
    with short_path(folder) as short:
        with os.scandir(short) as found:
            listeners = [entry.name for entry in found if entry.name.startswith(f"{topic}.")]
        if listeners:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                for name in listeners:
                    ring_socket(sender, Path(short, name))


def ring_socket(sender: socket.socket, listener: Path) -> None:
    try:
        sender.sendto(b"!", str(listener))
    except (ConnectionRefusedError, FileNotFoundError):
        listener.unlink(missing_ok=True)
    except BlockingIOError:
        return
