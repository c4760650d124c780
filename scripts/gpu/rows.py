"""What is measured of one way of running a model: each figure a median of several runs after some that do not count."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from scripts.gpu.clock import Clock, Mark, Times
from scripts.gpu.columns import Column, Pixels, never

GB = 1e9

PEAK = "peak memory"


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        name: what was measured. unit: ms, GB, requests/s, or "" for a ratio.
        value: median; p90 where there are several runs. runs: each of them, in the unit.
    """

    model: str
    column: str
    name: str
    unit: str
    value: float
    p90: float | None = None
    runs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Request:
    """When one request passed its stages, and what came of it.

    Args:
        marks: start, the end of each step, end of the last kernel. whole_ms: with the PNG, by the host's clock.
    """

    marks: tuple[Mark, ...]
    whole_ms: float
    pixels: Pixels


def measure(column: Column, clock: Clock, flops: float | None, rate: float) -> Iterator[Row]:
    """Every row of a column, the noisiest one twice.

    Args:
        flops: operations of one request, where they are known. rate: of the card at most, per second.
    """
    parts = column.parts()
    figures = {name: clock.time(work) for name, work in parts.items()}
    reset_peak(clock)
    figures |= request_figures(column, clock)
    peak = peak_gb(clock)
    yield from (row_of(column, name, times) for name, times in figures.items())
    noisiest = max(figures, key=lambda name: figures[name].noise)
    part = parts.get(noisiest)
    again = clock.time(part) if part else request_figures(column, clock)[noisiest]
    yield row_of(column, f"{noisiest}, again", again)
    alone = figures["GPU time"]
    if flops is not None:
        yield Row(column.model, column.name, "share of the FLOP floor", "", flops / rate * 1e3 / alone.median)
    if peak is not None:
        yield Row(column.model, column.name, PEAK, "GB", peak)
    for batch in column.batches:
        times = alone if batch == 1 else clock.time(lambda batch=batch: column.run(batch, never))
        yield throughput(column, batch, times)


def throughput(column: Column, batch: int, times: Times) -> Row:
    """Requests per second when batches of this size follow each other."""
    rates = tuple(batch / ms * 1e3 for ms in times.ms)
    name = f"throughput at batch {batch}"
    return Row(column.model, column.name, name, "requests/s", statistics.median(rates), runs=rates)


def row_of(column: Column, name: str, times: Times) -> Row:
    """A row of times."""
    return Row(column.model, column.name, name, "ms", times.median, times.p90, times.ms)


def request_figures(column: Column, clock: Clock) -> dict[str, Times]:
    """Whole requests, one after another: what each stage takes on the device, and what the host takes."""
    for _ in range(clock.warm):
        one_request(column, clock)
    requests = [one_request(column, clock) for _ in range(clock.runs)]

    def each(figure: Callable[[Request], float]) -> Times:
        return Times(tuple(figure(request) for request in requests))

    figures: Mapping[str, Callable[[Request], float]] = {
        "step": lambda r: step_ms(r, clock),
        "denoise": lambda r: step_ms(r, clock) * (len(r.marks) - 2),
        "before the loop": lambda r: max(0.0, clock.between(r.marks[0], r.marks[1]) - step_ms(r, clock)),
        "after the loop": lambda r: clock.between(r.marks[-2], r.marks[-1]),
        "GPU time": lambda r: clock.between(r.marks[0], r.marks[-1]),
        "host per step": host_ms,
        "end to end": lambda r: r.whole_ms,
    }
    pixels = requests[0].pixels
    return {
        **{name: each(figure) for name, figure in figures.items()},
        f"PNG ({column.encoder})": Clock("cpu", clock.runs, clock.warm).time(lambda: column.encode(pixels)),
    }


def one_request(column: Column, clock: Clock) -> Request:
    """From a prepared request to a PNG file, alone on the device."""
    clock.wait()
    marks = [clock.mark()]

    def on_step(step: int, total: int) -> bool:
        marks.append(clock.mark())
        return False

    (pixels,) = column.run(1, on_step)
    marks.append(clock.mark())
    clock.wait()
    column.encode(pixels)
    return Request(tuple(marks), (time.perf_counter() - marks[0].host) * 1e3, pixels)


def step_ms(request: Request, clock: Clock) -> float:
    """Device time of a step: the median from one step's end to the next one's."""
    ends = request.marks[1:-1]
    return statistics.median(clock.between(a, b) for a, b in pairwise(ends))


def host_ms(request: Request) -> float:
    """The host's time to enqueue a step; as long as the device's where a step waits for it."""
    ends = request.marks[1:-1]
    return statistics.median((b.host - a.host) * 1e3 for a, b in pairwise(ends))


def reset_peak(clock: Clock) -> None:
    """Forget the most memory that was used so far."""
    if clock.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(clock.device)


def peak_gb(clock: Clock) -> float | None:
    """The most that torch had allocated since; None without a GPU."""
    return torch.cuda.max_memory_allocated(clock.device) / GB if clock.device.startswith("cuda") else None
