"""Child: processes that are run one after another, waited for without polling, and ended when it is time to stop."""

import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Child:
    """A context: inside, `run` as often as is wanted.

    Args:
        stop: once it is set the running one gets SIGTERM, and no other is started.
        leaves_s: after SIGTERM, time to leave before SIGKILL.
    """

    def __init__(self, stop: threading.Event, leaves_s: float) -> None:
        self._stop, self._leaves_s = stop, leaves_s
        self._process: subprocess.Popen[bytes] | None = None
        self._starting, self._over = threading.Lock(), False
        self._ender = threading.Thread(target=self._end_at_stop, name="ender", daemon=True)

    def __enter__(self) -> Self:
        self._ender.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop.is_set():
            self._ender.join()

    def run(self, start: Callable[[], subprocess.Popen[bytes]]) -> int | None:
        """Start one and wait for its end. Returns its exit code; None: it is time to stop, none was started."""
        with self._starting:
            if self._stop.is_set():
                return None
            self._process = start()
        with self._process:  # closes its standard input
            return self._process.wait()

    def _end_at_stop(self) -> None:
        self._stop.wait()
        with self._starting:
            process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self._leaves_s)
        except subprocess.TimeoutExpired:
            process.kill()
