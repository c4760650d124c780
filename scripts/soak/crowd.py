"""Crowd: many clients at once, each with one order, until the time for new ones is over and all have their results."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from rich.progress import Progress, track

from scripts.soak.clients import Client
from scripts.soak.orders import Order
from scripts.soak.receipts import Receipt

MOST_AT_ONCE = 24
"""Clients that wait at the same time; when all do, the next order comes later."""


def serve(orders: Iterator[Order], client: Client, per_s: float, seconds: float) -> list[Receipt]:
    """Bring up to `per_s` orders per second for so many seconds, then wait for every result."""
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        try:
            brought = list(bring(orders, client, per_s, seconds, pool))
            waiting = track(as_completed(brought), "the last results", total=len(brought))
            return sorted((future.result() for future in waiting), key=lambda receipt: receipt.key)
        except BaseException:  # Ctrl+C, too: the pool waits for its clients
            client.door.close()
            raise


def bring(
    orders: Iterator[Order], client: Client, per_s: float, seconds: float, pool: ThreadPoolExecutor
) -> Iterator[Future[Receipt]]:
    room, began = threading.Semaphore(MOST_AT_ONCE), time.monotonic()
    with Progress() as progress:
        bar = progress.add_task("orders and blows", total=seconds)
        for number in range(round(per_s * seconds)):
            time.sleep(max(0.0, began + number / per_s - time.monotonic()))
            free = room.acquire(timeout=max(0.0, began + seconds - time.monotonic()))
            progress.update(bar, completed=time.monotonic() - began)
            if not free:
                return
            future = pool.submit(client.bring, next(orders))
            future.add_done_callback(lambda _: room.release())
            yield future


def fetch_again(client: Client, receipts: Sequence[Receipt]) -> list[Receipt]:
    """Every result that was fetched once, once more."""
    with ThreadPoolExecutor(4) as pool:
        again = pool.map(lambda receipt: client.fetch_again(receipt) if receipt.fetched else receipt, receipts)
        return list(track(again, "the same results again", total=len(receipts)))
