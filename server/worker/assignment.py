"""Assignment: one job in a worker's hands, shared by the threads that prepare, generate, save and keep it alive."""

import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image as PILImage

from pipelines.endpoint import Endpoint
from server.queue.job import Job, LogLine
from server.queue.queue import Queue

StopReason = Literal["cancelled", "lost", "leaving"]
"""The client's wish; the job was given to another worker; this worker ends."""

Stage = Literal["fetching", "fetched", "ready", "taken"]
"""Its pictures are being fetched; it is prepared or about to be; it waits for the device; it was given the device."""


@dataclass(eq=False)
class Assignment:
    """One job being worked on.

    Args:
        images: the pictures of the request, from when they were fetched until they were prepared.
        prepared: what the pipeline made of the request, once it did.
        stage: how far it is; kept by the lineup.
        shared: whether it was given the device together with others.
        stop: why the work should end, as soon as it should.
        seconds: time spent in fetch, prepare and generate so far.
        idle: whether it waits for its turn, so that no progress is expected.
        began_at / progress_at: monotonic time of the claim, and of the last sign of progress.
    """

    job: Job
    endpoint: Endpoint
    images: Sequence[PILImage.Image] = ()
    prepared: Any = None
    stage: Stage = "fetching"
    shared: bool = False
    stop: StopReason | None = None
    seconds: float = 0.0
    idle: bool = True
    began_at: float = field(default_factory=time.monotonic)
    progress_at: float = field(default_factory=time.monotonic)
    _lines: deque[LogLine] = field(default_factory=deque)
    _flushing: threading.Lock = field(default_factory=threading.Lock)
    _decided: threading.Lock = field(default_factory=threading.Lock)

    @property
    def suspect(self) -> bool:
        """Whether it was in the hands of a worker that died: it may be why."""
        return self.job.attempt - self.job.spared > 1

    @property
    def batch_key(self) -> Hashable | None:
        """What it has in common with the jobs that it may be generated with; None: it is generated alone.

        As far as is known: before it is prepared, what the submit told.
        """
        if not self.job.batch_key or self.suspect:
            return None
        return self.job.endpoint, self.job.batch_key, self.prepared and self.prepared.batch_key

    def resume(self) -> None:
        """It is worked on from now on."""
        self.progress_at = time.monotonic()
        self.idle = False

    def rest(self) -> None:
        """It waits from now on."""
        self.idle = True

    def settle(self) -> bool:
        """Whether the caller decides how it ends: true once, for the first that asks."""
        return self._decided.acquire(blocking=False)

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
