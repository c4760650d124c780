"""Generator: gives batches the device, and does what helps when a batch does not work as a whole."""

import gc
import time
import traceback
from collections.abc import Mapping, Sequence

import structlog

from pipelines.endpoint import Picture, Pipeline
from pipelines.errors import Cancelled, DeviceLost, OutOfMemory
from server.metrics import WorkerMetrics
from server.worker.assignment import Assignment
from server.worker.lineup import Lineup

Outcome = list[Picture] | Exception
"""The pictures of one job, or why there are none."""

log = structlog.get_logger()


class Generator:
    """For the one thread that owns the device. `pipelines` by endpoint id."""

    def __init__(self, pipelines: Mapping[str, Pipeline], lineup: Lineup, metrics: WorkerMetrics) -> None:
        self.pipelines, self.lineup, self.metrics = pipelines, lineup, metrics
        self._idle_since: tuple[float, float] | None = None

    def generate(self, batch: Sequence[Assignment]) -> list[Outcome]:
        """What became of each job. A batch stops early only when every job of it should."""
        endpoint, began = batch[0].endpoint.id, time.monotonic()
        self._measure_gap(batch, began)
        self.metrics.batch_size.labels(endpoint).observe(len(batch))
        for assignment in batch:
            assignment.resume()
            assignment.say("Generating")
        with structlog.contextvars.bound_contextvars(**names_of(batch)):
            if len(batch) > 1:
                log.info("generated together")
            outcomes = self._climb(batch)
        took_s = time.monotonic() - began
        for assignment in batch:
            assignment.seconds += took_s
            self.metrics.stage_seconds.labels(endpoint, "generate").observe(took_s)
        self._idle_since = time.monotonic(), time.time()
        return outcomes

    def _measure_gap(self, batch: Sequence[Assignment], now: float) -> None:
        """How long the device had nothing to do while the oldest of these jobs was here.

        Not while it was in the queue, where it may have been held back: by a pause, or by the lease of a dead worker.
        """
        if self._idle_since and batch[0].job.created_at <= self._idle_since[1]:
            self.metrics.gpu_gap.observe(now - max(self._idle_since[0], batch[0].began_at))

    def _climb(self, batch: Sequence[Assignment]) -> list[Outcome]:
        """The ladder: as it is; with freed memory; in halves if memory is short, one by one if something else is wrong.

        So one job that does not work fails alone. A job that fails alone fails.
        """
        outcome = self._attempt(batch)
        if isinstance(outcome, OutOfMemory):
            outcome = self._again(batch)
        if not isinstance(outcome, Exception):
            return list(outcome)
        if len(batch) == 1 or isinstance(outcome, Cancelled | DeviceLost):
            return [outcome] * len(batch)
        return self._apart(batch, outcome)

    def _attempt(self, batch: Sequence[Assignment]) -> Sequence[Outcome] | Exception:
        """All pictures of the batch, or why there are none."""
        if all(assignment.stop for assignment in batch):
            return Cancelled("stopped before the first step")

        def on_step(step: int, total: int) -> bool:
            stops = [assignment.on_step(step, total) for assignment in batch]
            return all(stops)

        try:
            prepared = [assignment.prepared for assignment in batch]
            return self.pipelines[batch[0].endpoint.id].generate(prepared, on_step)
        except OutOfMemory as error:
            return OutOfMemory(str(error))  # without the traceback, which would keep what was computed alive
        except Exception as error:
            clear_frames(error)
            return error

    def _again(self, batch: Sequence[Assignment]) -> Sequence[Outcome] | Exception:
        """Once more, after the pipeline gave back what it only kept, and with nothing of the first try alive."""
        log.warning("out of memory, trying once more", size=len(batch))
        self.metrics.out_of_memory.labels("again").inc()
        gc.collect()
        return self._attempt(batch)

    def _apart(self, batch: Sequence[Assignment], error: Exception) -> list[Outcome]:
        """The batch in parts. A size that did not fit is not tried again by this process."""
        size = 1
        if isinstance(error, OutOfMemory):
            size = len(batch) // 2
            self.lineup.shrink(batch[0], size)
            self.metrics.out_of_memory.labels("smaller").inc()
        log.warning("the batch is generated in parts", most=size, error=type(error).__name__)
        outcomes: list[Outcome] = []
        for start in range(0, len(batch), size):
            part, last = batch[start : start + size], outcomes[-1] if outcomes else None
            outcomes += [last] * len(part) if isinstance(last, DeviceLost) else self._climb(part)
        return outcomes


def clear_frames(error: BaseException) -> None:
    """Let go of what was computed until the error: an error may live longer than that should."""
    seen, chain = set[int](), [error]
    while chain:
        one = chain.pop()
        if id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            chain += [before for before in (one.__cause__, one.__context__) if before]


def names_of(batch: Sequence[Assignment]) -> dict[str, str | list[str]]:
    """For the log."""
    ids = [assignment.job.id for assignment in batch]
    return {"request_ids": ids} if len(ids) > 1 else {"request_id": ids[0]}
