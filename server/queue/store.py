"""Store: the database below the queue: transactions, how durable each is, and the clock that leases run by."""

import os
import select
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Float,
    bindparam,
    cast,
    create_engine,
    event,
    extract,
    func,
    make_url,
)
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, OperationalError

BUSY_TIMEOUT_S = 10
MOST_THREADS = 48
"""Connections kept open on SQLite: one for each thread of the HTTP process, so that none is opened under load."""
NETWORK_FILESYSTEMS = (
    *(
        "nfs",
        "nfs4",
        "cifs",
        "smb2",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "ocfs2",
        "gfs2",
    ),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.juicefs", "fuse.rclone", "fuse.gcsfuse"),
)
"""Their locks and shared memory do not hold between hosts, so SQLite's WAL would corrupt there."""


FOR_EACH_CONNECTION: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""PostgreSQL: a server that vanished is given up after 25 s (libpq: seconds, the last one milliseconds)."""
FOR_EACH_SESSION = "-c idle_in_transaction_session_timeout=15s -c lock_timeout=10s -c enable_seqscan=off"
"""A process that froze or vanished inside a transaction loses its locks, and nobody waits for ever for anybody's.
A plan that was made while few jobs were there is kept: it must use the indexes, too, because soon there may be many."""


class StoreError(Exception):
    """The queue's database cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Clock:
    """The time that leases and timeouts are measured with, immune to changes of the wall clock.

    PostgreSQL: the server's clock, one for all hosts. SQLite: seconds since boot, which all processes of the one host
    share; `name` then holds the boot, because after a reboot the numbers start again.
    """

    name: str

    def now(self) -> ColumnElement[float]:
        """The time at which the statement is executed, so that statements can be composed once and kept."""
        if self.name == "postgresql":
            return cast(extract("epoch", func.clock_timestamp()), Float)
        return bindparam(None, callable_=seconds_since_boot, type_=Float(), unique=True)


def seconds_since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _clock(url: URL) -> Clock:
    if url.get_backend_name() == "postgresql":
        return Clock("postgresql")
    return Clock(Path("/proc/sys/kernel/random/boot_id").read_text().strip())


class Store:
    """One database, opened twice on SQLite: with and without an fsync per commit.

    A commit without fsync survives kill -9 and loses at most the newest claims and heartbeats in a power failure, which
    leaves a job queued; an acknowledged request or result is always committed with fsync.

    Raises:
        StoreError: a URL of another database, SQLite in memory or on a network file system.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except ArgumentError:
            raise StoreError("database_url is no SQLAlchemy URL such as postgresql+psycopg://user@host/name") from None
        self.clock = _clock(self.url)
        match self.url.get_backend_name():
            case "sqlite":
                refuse_network_filesystem(self.sqlite_file.parent)
                self._durable, self._quick = _sqlite(self.url, "FULL"), _sqlite(self.url, "NORMAL")
            case "postgresql":
                self._durable = self._quick = _postgresql(self.url)
            case other:
                raise StoreError(f"the queue lives in sqlite or postgresql, not in {other}: change database_url")
        # Made once: to make them costs as much as SQLite needs for a small write.
        self._writing, self._writing_durably = (
            engine.execution_options(begin="IMMEDIATE") for engine in (self._quick, self._durable)
        )
        # For questions each is a transaction: on PostgreSQL as consistent as READ COMMITTED, with two round trips less.
        if self.is_sqlite:
            self._reading, self._snapshot = self._quick, self._quick.execution_options(begin="DEFERRED")
        else:
            self._reading, self._snapshot = (
                self._quick.execution_options(isolation_level=level) for level in ("AUTOCOMMIT", "REPEATABLE READ")
            )

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def sqlite_file(self) -> Path:
        if not self.url.database or self.url.database == ":memory:":
            raise StoreError("the queue must outlive the process: give database_url a file, not SQLite in memory")
        return Path(self.url.database)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """For questions alone. Each of them sees what is committed when it is asked."""
        with self._reading.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """For questions whose answers must fit together, or come in pages: what is committed meanwhile is not seen."""
        with self._snapshot.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction whose loss in a power failure costs nothing but time (SQLite: no fsync)."""
        with self._writing.begin() as connection:
            yield connection

    @contextmanager
    def stating(self) -> Iterator[Connection]:
        """`writing` for one statement alone, which on PostgreSQL saves the round trips of a transaction."""
        with (self._writing if self.is_sqlite else self._reading).begin() as connection:
            yield connection

    @contextmanager
    def writing_durably(self) -> Iterator[Connection]:
        """A transaction that is on the disk once it returns."""
        with self._writing_durably.begin() as connection:
            yield connection

    def close(self) -> None:
        for engine in {self._durable, self._quick}:
            engine.dispose()


def _postgresql(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=5,
        max_overflow=10,
        pool_timeout=BUSY_TIMEOUT_S,
        hide_parameters=True,
        connect_args=patience(url),
    )

    @event.listens_for(engine, "checkout")
    def look(connection: Any, _record: Any, _proxy: Any) -> None:
        # A server that went away has closed the connection, which a look at the socket tells without a round trip.
        if readable(connection):
            raise InvalidatePoolError("the database ended the connection, and perhaps the others")

    return engine


def readable(connection: Any, within_s: float = 0.0) -> bool:
    """Whether PostgreSQL has said something on this connection that nobody read, or has ended it."""
    poll = select.poll()  # select() refuses the numbers that files have in a busy process
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def patience(url: URL) -> dict[str, Any]:
    """How long a PostgreSQL connection waits for what. What the URL itself says is more important."""
    said = url.normalized_query
    options = " ".join((FOR_EACH_SESSION, *said.get("options", ())))  # of two the last is in force
    return {name: value for name, value in FOR_EACH_CONNECTION.items() if name not in said} | {"options": options}


def begin_journal(connection: sqlite3.Connection) -> None:
    """Vacuum by increments, and a write-ahead log: both stay in the file, and to say them again takes the write lock.

    Of several that open a new file at once all but one are refused, whatever the timeout: they try again.
    """
    limit = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                return
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.02)


def _sqlite(url: URL, synchronous: str) -> Engine:
    # isolation_level None: Python's driver must not begin transactions by itself, they begin below.
    options = {"timeout": BUSY_TIMEOUT_S, "isolation_level": None}
    engine = create_engine(url, connect_args=options, pool_size=MOST_THREADS, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        begin_journal(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that starts as a reader can deadlock with another one, and then busy waiting does not help.
        if kind := connection.get_execution_options().get("begin"):
            begin_transaction(connection, kind)

    @event.listens_for(engine, "commit")
    def commit(connection: Connection) -> None:
        if rolled_back(connection):  # Python's driver would commit nothing, and call that a success
            raise OperationalError("COMMIT", None, sqlite3.OperationalError("SQLite rolled the transaction back"))

    return engine


def begin_transaction(connection: Connection, kind: str) -> None:
    """By the driver, since SQLAlchemy takes ten times as long as SQLite. Raises OperationalError when it is locked."""
    driver: Any = connection.connection.dbapi_connection
    try:
        driver.execute(f"BEGIN {kind}")
    except sqlite3.OperationalError as error:
        raise OperationalError("BEGIN", None, error) from error


def rolled_back(connection: Connection) -> bool:
    """Whether SQLite ended the transaction by itself, as it does when the disk is full (lang_transaction.html)."""
    driver: Any = connection.connection.dbapi_connection
    return connection.dialect.name == "sqlite" and not driver.in_transaction


def refuse_network_filesystem(folder: Path, mounts: str | None = None) -> None:
    """Raise StoreError when `folder` lies on a network file system. `mounts`: text like /proc/self/mountinfo's."""
    kind = filesystem_of(folder, mounts if mounts is not None else Path("/proc/self/mountinfo").read_text())
    if kind in NETWORK_FILESYSTEMS:
        raise StoreError(
            f"{folder} is on a network file system ({kind}), where SQLite corrupts: "
            "put data_dir on a local disk, or set database_url to a PostgreSQL server"
        )


def filesystem_of(folder: Path, mounts: str) -> str | None:
    """The type of the file system that holds `folder`: the last mount on the longest matching path (proc(5))."""
    here, best, kind = Path(os.path.realpath(folder)), 0, None
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        mount_point = Path(fields.split()[4].replace("\\040", " "))
        if here.is_relative_to(mount_point) and len(mount_point.parts) >= best:
            best, kind = len(mount_point.parts), rest.split()[0]
    return kind
