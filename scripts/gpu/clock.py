"""Time on the device: CUDA events around the work, or the machine's clock where there is no GPU."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mark:
    """A moment: when the host passed it (seconds), and an event that the device passes in its turn."""

    host: float
    event: torch.cuda.Event | None


@dataclass(frozen=True)
class Times:
    """Milliseconds of equal runs, in their order."""

    ms: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    @property
    def p90(self) -> float:
        return quantile(self.ms, 0.9)

    @property
    def noise(self) -> float:
        """How far the runs lie apart, as a part of the median."""
        return (self.p90 - quantile(self.ms, 0.1)) / self.median if self.median else 0.0


def quantile(values: tuple[float, ...], part: float) -> float:
    """The value that `part` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[round(part * (len(ordered) - 1))]


@dataclass(frozen=True)
class Clock:
    """Measures on one device.

    Args:
        runs: measured ones, after `warm` that are not.
    """

    device: str
    runs: int = 9
    warm: int = 2

    def mark(self) -> Mark:
        """Now."""
        if not self.device.startswith("cuda"):
            return Mark(time.perf_counter(), None)
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return Mark(time.perf_counter(), event)

    def wait(self) -> None:
        """Until the device has done everything that it was told."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def between(self, start: Mark, end: Mark) -> float:
        """Milliseconds on the device; call `wait` before."""
        if start.event is None or end.event is None:
            return (end.host - start.host) * 1e3
        return start.event.elapsed_time(end.event)

    def time(self, work: Callable[[], object]) -> Times:
        """Milliseconds of `work` on the device, from its first kernel's turn to its last one's end."""
        for _ in range(self.warm):
            work()
        return Times(tuple(self._once(work) for _ in range(self.runs)))

    def _once(self, work: Callable[[], object]) -> float:
        self.wait()
        start = self.mark()
        work()
        end = self.mark()
        self.wait()
        return self.between(start, end)
