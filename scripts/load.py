"""Load: HTTP/1.1 clients on raw keep-alive sockets, in one event loop; the same ones for every server measured."""

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


@dataclass(frozen=True)
class Client:
    """One connection, kept open. Raises ConnectionError when the server closes it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, address: str) -> Self:
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, request: bytes) -> Answer:
        """Send one request and read its answer, which must tell its length, as ours and LitServe's do."""
        self.writer.write(request)
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            length = next(int(line[15:]) for line in lines if line.lower().startswith("content-length:"))
            return Answer(int(lines[0].split()[1]), await self.reader.readexactly(length))
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("the server closed the connection") from error

    def close(self) -> None:
        self.writer.close()


def request(method: str, path: str, address: str, body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: bench\r\nAccept: application/json\r\n"
    if body or method == "POST":
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@dataclass(frozen=True)
class Round:
    """One closed loop: latencies in seconds, how long it lasted, how many answers were no 2xx."""

    latencies: Sequence[float]
    seconds: float
    refused: int

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile_ms(self, share: float) -> float:
        return quantile(self.latencies, share) * 1000


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def closed_loop(address: str, message: bytes, connections: int, seconds: float) -> Round:
    """Each of `connections` clients asks again as soon as it was answered, for `seconds`."""
    latencies: list[float] = []
    refused = 0
    ends = time.perf_counter() + seconds

    async def keep_asking() -> None:
        nonlocal refused
        client = await Client.connect(address)
        while (began := time.perf_counter()) < ends:
            answer = await client.ask(message)
            latencies.append(time.perf_counter() - began)
            refused += not 200 <= answer.status < 300
        client.close()

    began = time.perf_counter()
    await asyncio.gather(*(keep_asking() for _ in range(connections)))
    return Round(latencies, time.perf_counter() - began, refused)


def fdatasync_p50_ms(folder: Path, times: int = 50) -> float:
    """How long this disk takes to make 4 KiB durable: the floor of every acknowledged submit."""
    took = []
    file = folder / "fdatasync.probe"
    with file.open("wb", buffering=0) as probe:
        for _ in range(times):
            probe.write(b"x" * 4096)
            began = time.perf_counter()
            os.fdatasync(probe.fileno())
            took.append(time.perf_counter() - began)
    file.unlink()
    return statistics.median(took) * 1000


def facts(folder: Path) -> str:
    """What a figure of this moment depends on."""
    return f"load average {os.getloadavg()[0]:.1f}, fdatasync p50 {fdatasync_p50_ms(folder):.2f} ms"
