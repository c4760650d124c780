"""What polling costs: `python -m scripts.bench_polling` (fal-protocol.md §2.6, statement 37).

A worker that sleeps 200 ms per job works off a backlog; by turns nobody asks, and `--clients` clients poll as fal's
Python client does: again 100 ms after each answer. Both with held polls (hold_status_ms as delivered) and without.
Printed per turn: jobs per second from the queue's own times, CPU of the HTTP process, polls per second, answer times.
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.progress import track

from scripts.load import Client, facts, quantile, request
from tests.server_process import ServerProcess

ENDPOINT = "test/blue-square"
JOB = {"prompt": "sleep", "steps": 4, "step_s": 0.05}
JOBS_PER_S = 5
MOST_LOSS, MOST_CPU = 0.05, 0.30
"""Bars of `--check`: the share of jobs per second that polling may cost, and of one core in the HTTP process."""


@dataclass(frozen=True)
class Window:
    """A stretch of work: jobs per second, cores used by the HTTP process, seconds per poll."""

    jobs_per_s: float
    cores: float
    seconds: float
    polls: list[float]


@dataclass(frozen=True)
class Turn:
    """The same work without and with polling."""

    hold_ms: int
    quiet: Window
    polled: Window

    @property
    def loss(self) -> float:
        return 1 - self.polled.jobs_per_s / self.quiet.jobs_per_s

    @property
    def row(self) -> str:
        polls = self.polled.polls
        return (
            f"{self.hold_ms:9}{self.quiet.jobs_per_s:9.2f}{self.polled.jobs_per_s:9.2f}{self.loss:9.1%}"
            f"{self.quiet.cores:9.1%}{self.polled.cores:9.1%}{len(polls) / self.polled.seconds:9.0f}"
            f"{quantile(polls, 0.5) * 1000:9.1f}{quantile(polls, 0.99) * 1000:9.1f}"
        )


COLUMNS = ("hold ms", "jobs/s", "polled", "loss", "CPU", "polled", "polls/s", "p50 ms", "p99 ms")
HEAD = "".join(f"{column:>9}" for column in COLUMNS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=15, help="length of each of a turn's two windows")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short turn: shows that it runs, and no more")
    parser.add_argument(
        "--check", action="store_true", help=f"exit 1 beyond {MOST_LOSS:.0%} loss or {MOST_CPU:.0%} CPU"
    )
    arguments = parser.parse_args()
    seconds, turns = (2.0, 1) if arguments.quick else (arguments.seconds, arguments.turns)
    with tempfile.TemporaryDirectory() as folder:
        print(f"{arguments.clients} clients; {facts(Path(folder))}\n{HEAD}")
        holds = (400,) if arguments.quick else (0, 400)
        done = list(
            measure(Path(folder), arguments.clients, seconds, [(n, hold) for n in range(turns) for hold in holds])
        )
    print(f"at the end: load average {psutil.getloadavg()[0]:.1f}")
    good = [fits(done, hold_ms) for hold_ms in dict.fromkeys(turn.hold_ms for turn in done)]
    return int(arguments.check and not all(good))


def measure(folder: Path, clients: int, seconds: float, order: Sequence[tuple[int, int]]) -> Iterator[Turn]:
    """Turns, each (number, hold_ms) on a server of its own."""
    for number, hold_ms in track(order, "measuring"):
        data = folder / f"{number}-{hold_ms}"
        data.mkdir()
        with ServerProcess(data, catalog="tests.pipelines.catalog:CATALOG", hold_status_ms=hold_ms) as server:
            turn = asyncio.run(one_turn(server, hold_ms, clients, seconds))
        print(turn.row, flush=True)
        yield turn


async def one_turn(server: ServerProcess, hold_ms: int, clients: int, seconds: float) -> Turn:
    address = server.url.partition("://")[2]
    backlog = await submit(address, int(2 * seconds * JOBS_PER_S) + clients + 20)
    await asyncio.sleep(1)
    quiet = await window(server, [], seconds)
    return Turn(hold_ms, quiet, await window(server, backlog[-clients:], seconds))


async def submit(address: str, number: int) -> list[str]:
    """Queue jobs; returns the paths of their status."""
    client = await Client.connect(address)
    message = request("POST", f"/queue/{ENDPOINT}", address, json.dumps(JOB).encode())
    answers = [await client.ask(message) for _ in range(number)]
    client.close()
    if refused := [answer for answer in answers if answer.status != 200]:
        raise SystemExit(f"a submit was answered {refused[0].status}: {refused[0].body!r}")
    ids = [json.loads(answer.body)["request_id"] for answer in answers]
    return [f"/queue/{ENDPOINT}/requests/{one}/status?logs=true" for one in ids]


async def window(server: ServerProcess, paths: list[str], seconds: float) -> Window:
    """Let the worker work for `seconds` while one client per path polls."""
    address, took = server.url.partition("://")[2], []
    process = http_process(server)
    cpu, since, began = cpu_s(process), time.time(), time.perf_counter()
    ends = began + seconds
    pollers = [asyncio.create_task(poll(address, path, ends, took)) for path in paths]
    await asyncio.sleep(seconds)
    lasted = time.perf_counter() - began
    cores = (cpu_s(process) - cpu) / lasted
    rate = jobs_per_s(server.data_dir / "queue.db", since, time.time())
    await asyncio.gather(*pollers)
    return Window(rate, cores, lasted, took)


async def poll(address: str, path: str, ends: float, took: list[float]) -> None:
    client = await Client.connect(address)
    while (began := time.perf_counter()) < ends:
        answer = await client.ask(request("GET", path, address))
        took.append(time.perf_counter() - began)
        if answer.status not in {200, 202}:
            raise SystemExit(f"a poll was answered {answer.status}: {answer.body!r}")
        await asyncio.sleep(0.1)
    client.close()


def http_process(server: ServerProcess) -> psutil.Process:
    return next(one for one in server.family() if "server.http" in one.cmdline())


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def jobs_per_s(database: Path, since: float, until: float) -> float:
    """From the first to the last job that was finished in this time, so that whole jobs are counted."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        query = "select count(*), min(finished_at), max(finished_at) from jobs where finished_at between ? and ?"
        number, first, last = connection.execute(query, (since, until)).fetchone()
    connection.close()
    if number < 2:
        raise SystemExit(f"only {number} jobs were finished in {until - since:.1f} s: measure for longer (--seconds)")
    return (number - 1) / (last - first)


def fits(turns: list[Turn], hold_ms: int) -> bool:
    """Print the medians of the turns with this hold, and whether they are within the bars."""
    these = [turn for turn in turns if turn.hold_ms == hold_ms]
    loss = statistics.median(turn.loss for turn in these)
    cores = statistics.median(turn.polled.cores for turn in these)
    good = loss < MOST_LOSS and cores < MOST_CPU
    print(f"median hold {hold_ms} ms: loss {loss:.1%}, CPU {cores:.1%}: {'ok' if good else 'beyond the bars'}")
    return good


if __name__ == "__main__":
    sys.exit(main())
