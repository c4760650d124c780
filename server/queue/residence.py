"""Residence: a SQLite queue belongs to one kernel at a time. Another host is refused before it opens the database.

What SQLite's processes share in memory ends at the kernel: two hosts on one file would corrupt it, whatever its locks
say. So a small file beside it names the kernel that serves it, and says every second that it still does.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from server.queue.store import Store, StoreError

BEAT_S = 1.0
WATCH_S = 5.0
"""Silent for this long, the other host is gone: it is switched off, or this one was restarted."""
LOOK_S = 0.1
SIZE = 512
"""Bytes of the file; always as many, so that nobody reads a half of it."""

log = structlog.get_logger()


class Residence:
    """This process's view of who serves a queue. PostgreSQL serves any number of hosts, and needs none.

    Raises:
        StoreError: a database that cannot hold a queue.
    """

    def __init__(self, database_url: str) -> None:
        store = Store(database_url)
        self._database = store.sqlite_file if store.is_sqlite else None
        self._boot, self._host = store.clock.name, socket.gethostname()

    @property
    def file(self) -> Path:
        """``queue.host`` beside ``queue.db``."""
        assert self._database is not None
        return self._database.absolute().with_suffix(".host")

    def move_in(self) -> bool:
        """Say that this kernel serves the queue now, unless another one does. Returns whether any served it before.

        A restart on the same kernel costs nothing, one on another kernel (or after a reboot) WATCH_S.

        Raises:
            StoreError: another host is serving this file.
        """
        if self._database is None:
            return False
        there = self._read()
        if there and named(there, "boot") != self._boot:
            self._watch(there)
        draft = self.file.with_suffix(f".host-{time.monotonic_ns()}")
        draft.write_bytes(self._stamp())
        draft.replace(self.file)
        return there is not None

    def _watch(self, there: bytes) -> None:
        host = named(there, "host")
        log.info("the queue was last served before a reboot, or elsewhere; looking whether it still is", host=host)
        limit = time.monotonic() + WATCH_S
        while time.monotonic() < limit:
            time.sleep(LOOK_S)
            if self._read() != there:
                raise StoreError(
                    f"the queue at {self._database} is being served by another host, {host}, and SQLite's files must "
                    "not be shared between hosts: stop the server there first, choose another --data-dir, or set "
                    "database_url to a PostgreSQL server, which any number of hosts may share"
                )

    def beat(self) -> bool:
        """Say that this kernel still serves the queue. False: another one does by now, because this one was silent."""
        there = self._read()
        if there is None:
            self.move_in()
        elif named(there, "boot") != self._boot:
            return False
        else:
            with self.file.open("r+b") as file:
                file.write(self._stamp())
        return True

    def keep(self, stop: threading.Event, lost: Callable[[], None]) -> None:
        """Beat until `stop`; call `lost` when another host has moved in meanwhile: nothing may be written any more."""
        while self._database is not None and not stop.wait(BEAT_S):
            try:
                if not self.beat():
                    host = named(self._read() or b"", "host")
                    log.error("another host serves this queue now, so this one ends at once", host=host)
                    lost()
                    return
            except OSError as error:
                log.warning("cannot say that this host serves the queue", error=type(error).__name__)

    def _read(self) -> bytes | None:
        try:
            return self.file.read_bytes()
        except FileNotFoundError:
            return None

    def _stamp(self) -> bytes:
        said = {"boot": self._boot, "host": self._host, "beat": time.monotonic_ns()}
        return json.dumps(said).encode().ljust(SIZE)


def named(stamp: bytes, what: str) -> str:
    """What a stamp says; nothing when it cannot be read, as after a power failure."""
    try:
        return str(json.loads(stamp)[what])
    except (ValueError, KeyError, TypeError):
        return ""
