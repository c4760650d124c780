"""Carry out a plan: fetch its files side by side, the same bytes once, and tell of each how it went."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx2

from weights.download import Line, Report, Wanted, download, settle
from weights.hub import hub_address, hub_token
from weights.lock import Lock, Locked
from weights.manifest import WeightsError
from weights.plan import Order
from weights.store import sha256_of

PARTS = ".incoming"
"""Folder below the root for files that are not complete yet."""

TIMEOUT = httpx2.Timeout(30.0)
SPARE_BYTES = 200_000_000
"""Room that must be left over."""

Outcome = Locked | WeightsError


def open_line(endpoint: str | None) -> Line:
    """A line to the hub at `endpoint`, with the token that this machine has. Close its client."""
    client = httpx2.Client(follow_redirects=True, timeout=TIMEOUT)
    return Line(client, hub_address(endpoint), hub_token())


def wanted_by(root: Path, order: Order) -> Wanted:
    return Wanted(order.file.target, root / order.file.target, root / PARTS, order.urls, order.remote)


def bytes_to_come(root: Path, orders: Iterable[Order]) -> tuple[int, int]:
    """(all bytes of the plan's downloads, those of them that have arrived before)."""
    firsts = [group[0] for group in same_bytes(orders)]
    arrived = sum(min(one.size, wanted_by(root, one).arrived) for one in firsts)
    return sum(one.size for one in firsts), arrived


def require_room(root: Path, needed: int) -> None:
    """Raises WeightsError when the disk has less than `needed` bytes and a little more."""
    free = shutil.disk_usage(root).free
    if free < needed + SPARE_BYTES:
        raise WeightsError(
            f"{root} needs {(needed + SPARE_BYTES) / 1e9:.1f} GB more, and its disk has {free / 1e9:.1f} GB free: make "
            "room, or choose another disk with VERAICON_WEIGHTS_DIR"
        )


def same_bytes(orders: Iterable[Order]) -> list[list[Order]]:
    """Orders in groups of the same bytes: SDXL's text encoders serve both endpoints."""
    groups: dict[str, list[Order]] = {}
    for order in orders:
        groups.setdefault(order.remote.identity or order.file.target, []).append(order)
    return list(groups.values())


def fetch_all(
    root: Path, orders: Sequence[Order], lock: Lock, line: Line, report: Report, jobs: int
) -> Iterator[tuple[Order, Outcome]]:
    """Each order with its entry for the lock, or with why there is none, as they end. Closing it stops them all."""
    pool = ThreadPoolExecutor(jobs)
    try:
        futures: dict[Future[Locked], list[Order]] = {
            pool.submit(fetch_one, root, group[0], lock, line, report): group for group in same_bytes(orders)
        }
        for future in as_completed(futures):
            first, *others = futures[future]
            try:
                entry = future.result()
            except (WeightsError, OSError) as error:
                for order in (first, *others):
                    yield order, error if isinstance(error, WeightsError) else disk_trouble(order, error)
                continue
            yield first, entry
            for order in others:
                link(root / first.file.target, wanted_by(root, order))
                yield order, Locked(entry.size, entry.sha256, order.known)
    finally:
        line.stop.set()
        pool.shutdown(cancel_futures=True)


def disk_trouble(order: Order, error: OSError) -> WeightsError:
    place = error.filename or order.file.target
    return WeightsError(f"{place} cannot be written ({error.strerror or error}): mend that, and run the command again")


def fetch_one(root: Path, order: Order, lock: Lock, line: Line, report: Report) -> Locked:
    """Download one file, or link it where the same bytes are in the root. Raises WeightsError or OSError."""
    wanted = wanted_by(root, order)
    for target, known in lock.files.items():
        twin = root / target
        if known.sha256 == order.remote.sha256 and target != order.file.target and is_whole(twin, known):
            link(twin, wanted)
            report(known.size)
            return Locked(known.size, known.sha256, order.known)
    digest = download(line, wanted, report)
    return Locked(wanted.place.stat().st_size, digest, order.known)


def is_whole(path: Path, known: Locked) -> bool:
    return path.is_file() and path.stat().st_size == known.size and sha256_of(path) == known.sha256


def link(twin: Path, wanted: Wanted) -> None:
    """A second name for bytes that are there; a copy where the file system has no such thing."""
    wanted.parts.mkdir(parents=True, exist_ok=True)
    wanted.part.unlink(missing_ok=True)
    try:
        os.link(twin, wanted.part)
    except OSError:
        shutil.copyfile(twin, wanted.part)
    settle(wanted.part, wanted.place)
