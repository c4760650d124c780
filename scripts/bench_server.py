"""What the server costs around a model: `python -m scripts.bench_server`, beside LitServe in the same run.

The model does nothing. Rows: `submit` is a durable submit (on the disk before the answer), `run` the whole way through
the queue and a worker process to a stored PNG, `litserve` LitServe's answer, which keeps nothing. By turns with one and
with 32 connections, the same load program for all; medians over the rounds, with least and greatest. LitServe is
installed into a temporary environment of its own (`--without-litserve`: left out, and said so).
"""

import argparse
import asyncio
import json
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.progress import track

from scripts.load import Client, Round, closed_loop, facts, quantile, request
from tests.server_process import ServerProcess

ENDPOINT = "test/blue-square"
NOTHING = json.dumps({"prompt": "nothing", "steps": 1, "step_s": 0}).encode()
CATALOG = "tests.pipelines.catalog:CATALOG"
LITSERVE = """
import sys
import litserve

class Nothing(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request

    def predict(self, request):
        return request["prompt"]

    def encode_response(self, output):
        return {"output": output}

if __name__ == "__main__":
    server = litserve.LitServer(Nothing(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
"""


@dataclass(frozen=True)
class Target:
    """A server under load: where, and with which request."""

    name: str
    address: str
    message: bytes


@dataclass(frozen=True)
class Bar:
    """A target of overhead.md: the figure, what it must be, and whether greater is better."""

    text: str
    figure: float
    bar: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.figure >= self.bar if self.at_least else self.figure <= self.bar


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it runs, and no more")
    parser.add_argument("--without-litserve", action="store_true", help="measure ours alone")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    arguments = parser.parse_args()
    seconds, rounds = (0.5, 1) if arguments.quick else (arguments.seconds, arguments.rounds)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        print(f"at the start: {facts(folder)}")
        submits, whole = stack.enter_context(ours(folder, apart=not arguments.quick))
        targets = [submit_target(submits), run_target(whole)]
        if arguments.without_litserve:
            print("NOT MEASURED: LitServe (--without-litserve)")
        else:
            targets.append(stack.enter_context(litserve(folder)))
        found = {Key(t.name, c): [] for t in targets for c in CONNECTIONS}
        order = [(t, c) for _ in range(rounds) for c in CONNECTIONS for t in targets]
        for target, connections in track(order, "measuring"):
            done = asyncio.run(closed_loop(target.address, target.message, connections, seconds))
            found[Key(target.name, connections)].append(done)
        show(found)
        bars = [*submit_bars(found), *start_bars(whole, 20 if arguments.quick else 200), idle_bar(whole, seconds)]
        print(f"at the end: {facts(folder)}")
    for bar in bars:
        print(f"{'met   ' if bar.met else 'MISSED'} {bar.text}: {bar.figure:.2f} (target {bar.bar:g})")
    return int(arguments.check and not all(bar.met for bar in bars))


@dataclass(frozen=True)
class Key:
    """One row of the table."""

    name: str
    connections: int


CONNECTIONS = (1, 32)


@contextmanager
def ours(folder: Path, *, apart: bool) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """One server that only takes requests, and one that works on them, too; the same one if not `apart`."""
    settings = {"catalog": CATALOG, "max_queue": 10_000_000, "outbound": "none"}
    (folder / "api").mkdir()
    (folder / "all").mkdir()
    with ServerProcess(folder / "all", "serve", **settings) as whole, ExitStack() as stack:
        yield stack.enter_context(ServerProcess(folder / "api", "api", **settings)) if apart else whole, whole


def submit_target(server: ServerProcess) -> Target:
    address = server.url.partition("://")[2]
    return Target("submit", address, request("POST", f"/queue/{ENDPOINT}", address, NOTHING))


def run_target(server: ServerProcess) -> Target:
    address = server.url.partition("://")[2]
    return Target("run", address, request("POST", f"/{ENDPOINT}", address, NOTHING))


@contextmanager
def litserve(folder: Path) -> Iterator[Target]:
    """LitServe with a model that does nothing, from an environment of its own."""
    home, program = folder / "litserve", folder / "nothing.py"
    uv = Path(sys.executable).with_name("uv")
    print("installing LitServe into a temporary environment", flush=True)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, home], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", home / "bin" / "python", "litserve"], check=True)
    program.write_text(LITSERVE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [home / "bin" / "python", program, address.partition(":")[2]]
    with (folder / "litserve.log").open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        target = Target("litserve", address, request("POST", "/predict", address, NOTHING))
        wait_until(lambda: answers(target), 60, folder / "litserve.log")
        yield target
    finally:
        for process in [*psutil.Process(running.pid).children(recursive=True), running]:
            process.kill()
        running.wait()


def wait_until(true: Callable[[], bool], limit_s: float, log: Path) -> None:
    limit = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > limit:
            raise SystemExit(f"it does not answer after {limit_s:.0f} s: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def answers(target: Target) -> bool:
    async def once() -> bool:
        client = await Client.connect(target.address)
        answer = await client.ask(target.message)
        client.close()
        return answer.status == 200

    try:
        return asyncio.run(once())
    except OSError:
        return False


def show(found: Mapping[Key, Sequence[Round]]) -> None:
    """Medians over the rounds; in brackets the least and the greatest."""
    print(f"{'':10}{'clients':>8}{'req/s':>24}{'p50 ms':>24}{'p99 ms':>24}{'not 2xx':>9}")
    for key, rounds in sorted(found.items(), key=lambda item: (item[0].connections, item[0].name)):
        columns = [
            spread([one.per_second for one in rounds], 0),
            spread([one.quantile_ms(0.5) for one in rounds], 2),
            spread([one.quantile_ms(0.99) for one in rounds], 1),
        ]
        refused = sum(one.refused for one in rounds)
        print(f"{key.name:10}{key.connections:8}" + "".join(f"{column:>24}" for column in columns) + f"{refused:9}")


def spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def submit_bars(found: Mapping[Key, Sequence[Round]]) -> Iterator[Bar]:
    one, many = found[Key("submit", 1)], found[Key("submit", 32)]
    yield Bar("submit, 1 client, p50 ms", statistics.median(r.quantile_ms(0.5) for r in one), 2.5)
    yield Bar("submit, 1 client, p99 ms", statistics.median(r.quantile_ms(0.99) for r in one), 10)
    yield Bar("submit, 32 clients, req/s", statistics.median(r.per_second for r in many), 800, at_least=True)
    yield Bar(
        "answers that are not 2xx", sum(r.refused for key in found for r in found[key] if key.name != "litserve"), 0
    )
    if theirs := found.get(Key("litserve", 32)):
        fastest = statistics.median(r.per_second for r in theirs)
        ours_ = statistics.median(r.per_second for r in many)
        yield Bar("submit over litserve, 32 clients", ours_ / fastest, 1, at_least=True)


def start_bars(server: ServerProcess, number: int) -> Iterator[Bar]:
    """From the submit to the start, one job at a time on an idle server, by the queue's own times."""

    async def trickle() -> None:
        target = submit_target(server)
        client = await Client.connect(target.address)
        for _ in range(number):
            await client.ask(target.message)
            await asyncio.sleep(0.05)
        client.close()
        await asyncio.sleep(0.5)

    since = time.time()
    asyncio.run(trickle())
    waits = waits_ms(server.data_dir / "queue.db", since)
    yield Bar("submit to start p50 ms", quantile(waits, 0.5), 3)
    yield Bar("submit to start p99 ms", quantile(waits, 0.99), 12)


def waits_ms(database: Path, since: float) -> list[float]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    query = "select (started_at - created_at) * 1000 from jobs where created_at > ? and started_at is not null"
    waits = [row[0] for row in connection.execute(query, (since,))]
    connection.close()
    return waits


def idle_bar(server: ServerProcess, seconds: float) -> Bar:
    """All processes of a server that nobody asks."""
    before = cpu_s(server)
    time.sleep(seconds)
    return Bar("idle CPU, all processes, % of a core", 100 * (cpu_s(server) - before) / seconds, 1)


def cpu_s(server: ServerProcess) -> float:
    return sum(times.user + times.system for times in (one.cpu_times() for one in server.family()))


if __name__ == "__main__":
    sys.exit(main())
