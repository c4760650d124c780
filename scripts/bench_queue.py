"""What the queue costs: `python -m scripts.bench_queue`, on SQLite and on a PostgreSQL of its own, beside their floors.

Rows: from a submit (its beginning, and its acknowledgement) to its claim by a worker in another process, 50 per second;
claims and finishes per second of 1 and 4 workers, one job and eight at a time; claims, submits and status looks with
100,000 jobs waiting; the CPU of a server that nobody asks.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from rich.progress import track
from sqlalchemy import create_engine, insert

from scripts.claimer import ENDPOINT
from scripts.load import facts, quantile
from scripts.queue_floor import clocked, floor
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from server.queue.tables import jobs
from tests.databases import STORES, running_postgresql
from tests.server_process import ROOT, ServerProcess

PER_S = 50
OWNERS = 7
ALIKE = "steps=4"
"""The batch key of every job here: all may be claimed together."""
BARS = {
    ("sqlite", "submit to claim p50 ms"): 3.0,
    ("sqlite", "submit to claim p99 ms"): 15.0,
    ("postgresql", "submit to claim p50 ms"): 5.0,
    ("postgresql", "submit to claim p99 ms"): 20.0,
    ("sqlite", "idle server, % of a core"): 1.0,
    ("postgresql", "idle server, % of a core"): 1.0,
}
"""What `--check` demands at most."""

Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    seconds: float
    number: int
    waiting: int
    looks: int


FULL, QUICK = Sizes(20, 2000, 100_000, 200), Sizes(1, 60, 500, 10)


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    store: str
    what: str
    value: float

    @property
    def bar(self) -> float | None:
        return BARS.get((self.store, self.what))

    @property
    def met(self) -> bool:
        return self.bar is None or self.value <= self.bar

    @property
    def row(self) -> str:
        verdict = "" if self.bar is None else f"{'met' if self.met else 'MISSED'}: at most {self.bar:g}"
        return f"| {self.store} | {self.what} | {self.value:.2f} | {verdict} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="very little of everything: shows that it runs")
    parser.add_argument("--store", choices=STORES, help="one of the two only")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    arguments = parser.parse_args()
    stores = [arguments.store] if arguments.store else STORES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; {facts(folder)}")
        print("| store | what | figure | bar |\n|---|---|---|---|")
        sizes = QUICK if arguments.quick else FULL
        figures = [figure for store in stores for figure in measured(store, folder, sizes)]
        print(f"\nat the end: {facts(folder)}")
    return int(arguments.check and not all(figure.met for figure in figures))


def measured(store: str, folder: Path, sizes: Sizes) -> Iterator[Figure]:
    """Every figure of one store, printed as soon as it is known."""
    with databases(store, folder) as new_database:
        parts: list[Callable[[str], Figures]] = [
            floor,
            lambda url: starts(url, sizes.seconds),
            *(throughput(sizes.number, workers, most) for workers in (1, 4) for most in (1, 8)),
            lambda url: backlog(url, sizes),
            lambda url: idle(folder / f"idle-{store}", url, sizes.seconds),
        ]
        for part in track(parts, f"measuring {store}"):
            for what, value in part(new_database()):
                figure = Figure(store, what, value)
                print(figure.row, flush=True)
                yield figure


@contextmanager
def databases(store: str, folder: Path) -> Iterator[Callable[[], str]]:
    """Makes new databases that have the tables; gives their URLs."""

    def with_tables(url: str) -> str:
        create_tables(url)
        return url

    if store == "sqlite":
        yield lambda: with_tables(f"sqlite:///{tempfile.mkdtemp(dir=folder)}/queue.db")
        return
    with running_postgresql(folder / "postgresql") as server:
        yield lambda: with_tables(server.new_database())


@contextmanager
def opened(url: str) -> Iterator[Queue]:
    queue = Queue(url, lease_s=30, max_attempts=3)
    try:
        yield queue
    finally:
        queue.close()


def put(queue: Queue, number: int) -> str:
    """Submit a job of one of several keys; returns its id."""
    owner = f"key-{number % OWNERS}"
    return queue.put(ENDPOINT, {"prompt": "bench"}, owner=owner, base_url="http://bench", batch_key=ALIKE).id


@contextmanager
def claimer(url: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process that is ready, and claims once a line is written to it."""
    command = [sys.executable, "-m", "scripts.claimer", url, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        output(process).readline()
        yield process
        process.communicate()


def output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def begin(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def starts(url: str, seconds: float) -> Figures:
    """From a submit to its claim, at a steady pace on an otherwise empty queue."""
    asked, acknowledged, claimed = dict[str, int](), dict[str, int](), dict[str, int]()
    with opened(url) as queue, claimer(url) as worker:
        reading = threading.Thread(target=read_claims, args=(worker, claimed))
        reading.start()
        begin([worker])
        for number in range(round(PER_S * seconds)):
            began = time.monotonic_ns()
            job = put(queue, number)
            asked[job], acknowledged[job] = began, time.monotonic_ns()
            time.sleep(max(0, 1 / PER_S - (time.monotonic_ns() - began) / 1e9))
        wait_until(lambda: len(claimed) == len(asked))
        worker.terminate()
        reading.join()
    for what, since in (("submit to claim", asked), ("acknowledgement to claim", acknowledged)):
        took = [(claimed[job] - since[job]) / 1e6 for job in since]
        yield f"{what} p50 ms", quantile(took, 0.5)
        yield f"{what} p99 ms", quantile(took, 0.99)


def read_claims(worker: subprocess.Popen[str], claimed: dict[str, int]) -> None:
    for line in output(worker):
        when, *ids = line.split()
        claimed.update(dict.fromkeys(ids, int(when)))


def wait_until(true: Callable[[], bool], limit_s: float = 60) -> None:
    limit = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > limit:
            raise SystemExit(f"the workers have not claimed everything within {limit_s:.0f} s")
        time.sleep(0.05)


def throughput(number: int, workers: int, most: int) -> Callable[[str], Figures]:
    """Claims and finishes per second, from the first claim to the last."""

    def measure(url: str) -> Figures:
        with opened(url) as queue:
            for one in range(number):
                put(queue, one)
        with ExitStack() as stack:
            processes = [stack.enter_context(claimer(url, "--drain", "--most", str(most))) for _ in range(workers)]
            begin(processes)
            lines = [line.split() for process in processes for line in output(process)]
        times = [int(when) for when, *_ in lines]
        done = sum(len(ids) for _, *ids in lines)
        if done != number:
            raise SystemExit(f"{done} of {number} jobs were claimed")
        words = f"{workers} worker{'s' if workers > 1 else ''}, {most} at a time"
        yield f"claimed and finished per second, {words}", done / max(1e-9, (max(times) - min(times)) / 1e9)

    return measure


def backlog(url: str, sizes: Sizes) -> Figures:
    """With many jobs waiting: what claims, submits and looks take."""
    fill(url, sizes.waiting)
    words = f"with {sizes.waiting} waiting"
    with opened(url) as queue:
        last = [put(queue, number) for number in range(50)]
        actions: dict[str, Callable[[int], object]] = {
            "submit": lambda n: put(queue, n),
            "claim of 1": lambda n: queue.claim(f"worker-{n}", [ENDPOINT], 1),
            "claim of 4": lambda n: queue.claim(f"worker-{n}", [ENDPOINT], 4),
            "look of 50 polls at the end of the queue": lambda _: queue.views(dict.fromkeys(last, False)),
        }
        for name, action in actions.items():
            took = [clocked(lambda n=n: action(n)) for n in range(sizes.looks)]  # noqa: B023 - called here, now
            yield f"{name} {words}, p50 ms", quantile(took, 0.5)
            yield f"{name} {words}, p99 ms", quantile(took, 0.99)


def fill(url: str, number: int) -> None:
    """Jobs of several keys and both priorities, as submits would have left them."""
    row = {"endpoint": ENDPOINT, "state": "IN_QUEUE", "input": {}, "base_url": "http://bench", "batch_key": ALIKE}
    rows = [
        row
        | {"id": f"{n:036d}", "owner": f"key-{n % OWNERS}", "priority": n % 2, "turn": n // OWNERS, "created_at": 1.0}
        for n in range(number)
    ]
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(insert(jobs), rows)
    engine.dispose()


def idle(folder: Path, url: str, seconds: float) -> Figures:
    """All processes of `veraicon serve` when nobody asks; the database's own are not counted."""
    folder.mkdir()
    settings = {"catalog": "tests.pipelines.catalog:CATALOG", "database_url": url, "outbound": "none"}
    with ServerProcess(folder, "serve", **settings) as server:
        time.sleep(seconds / 4)
        family = server.family()
        before = cpu_s(family)
        time.sleep(seconds)
        yield "idle server, % of a core", 100 * (cpu_s(family) - before) / seconds


def cpu_s(family: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (one.cpu_times() for one in family))


if __name__ == "__main__":
    sys.exit(main())
