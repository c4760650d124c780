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
        look_s: how often the running one is looked at; None: never.
    """

    def __init__(self, stop: threading.Event, leaves_s: float, look_s: float | None = None) -> None:
        self._stop, self._leaves_s = stop, leaves_s
        self._process: subprocess.Popen[bytes] | None = None
        self._hopeless: Callable[[], bool] | None = None
        self._starting, self._over = threading.Lock(), False
        self._attendants = [threading.Thread(target=self._end_at_stop, name="ender", daemon=True)]
        if look_s is not None:
            self._attendants.append(threading.Thread(target=self._look, args=(look_s,), name="looker", daemon=True))

    def __enter__(self) -> Self:
        for attendant in self._attendants:
            attendant.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop.is_set():
            for attendant in self._attendants:
                attendant.join()

    def run(
        self, start: Callable[[], subprocess.Popen[bytes]], hopeless: Callable[[], bool] | None = None
    ) -> int | None:
        """Start one and wait for its end. Returns its exit code; None: it is time to stop, none was started.

        Args:
            hopeless: asked at every look; where it is true the process gets SIGKILL.

        Raises:
            OSError: it cannot be started.
        """
        with self._starting:
            if self._stop.is_set():
                return None
            self._process, self._hopeless = start(), hopeless
        with self._process:  # closes its standard input
            return self._process.wait()

    def _look(self, look_s: float) -> None:
        while not self._stop.wait(look_s):
            with self._starting:
                process, hopeless = self._process, self._hopeless
            if process and hopeless and process.returncode is None and hopeless():
                process.kill()

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
