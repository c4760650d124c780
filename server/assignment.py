"""Assignment: one job in a worker's hands, shared by the threads that prepare, generate, save and keep it alive."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.endpoint import Endpoint
from server.queue.job import Job, LogLine
from server.queue.queue import Queue

StopReason = Literal["cancelled", "lost", "leaving"]
"""The client's wish; the job was given to another worker; this worker ends."""


@dataclass
class Assignment:
    """One job being worked on.

    Args:
        prepared: what the pipeline made of the request, once it did.
        stop: why the work should end, as soon as it should.
        seconds: time spent in prepare and generate so far.
        idle: whether it waits for its turn, so that no progress is expected.
        ended: whether its outcome was recorded while it waited.
        progress_at: monotonic time of the last sign of progress.
    """

    job: Job
    endpoint: Endpoint
    prepared: Any = None
    stop: StopReason | None = None
    seconds: float = 0.0
    idle: bool = False
    ended: bool = False
    progress_at: float = field(default_factory=time.monotonic)
    _lines: deque[LogLine] = field(default_factory=deque)
    _flushing: threading.Lock = field(default_factory=threading.Lock)

    def say(self, message: str, level: str = "INFO") -> None:
        """A line for the client, which also counts as progress. Never holds anything the client sent."""
        self.progress_at = time.monotonic()
        self._lines.append(LogLine(time.time(), message, level))

    def on_step(self, step: int, total: int) -> bool:
        """See pipelines.endpoint.OnStep. Costs no database access: the pulse writes the line and reads the wishes."""
        self.say(f"Step {step}/{total}")
        return self.stop is not None

    def flush(self, queue: Queue) -> None:
        """Write the lines said so far."""
        with self._flushing:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if lines:
                queue.log(self.job, *lines)

    def stuck(self, timeout_s: float) -> bool:
        return not self.idle and time.monotonic() - self.progress_at > timeout_s
