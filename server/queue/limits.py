"""Limits: how much may wait before one more request is refused. Checked in its transaction, before it is stored."""

from sqlalchemy import ColumnElement, Connection, and_, func, select

from server.errors import ConcurrentRequests, QueueFull
from server.queue.places import Places
from server.queue.rows import UNFINISHED, WAITING
from server.queue.tables import jobs

COUNTED = 1000
"""Up to this many are counted exactly each time."""


def check(
    connection: Connection,
    places: Places,
    owner: str,
    max_queue: int | None,
    max_waiting: int | None,
    max_unfinished: int | None,
) -> None:
    """Raises QueueFull, ConcurrentRequests. None: no limit.

    Args:
        max_queue / max_waiting: how many jobs of everybody / of `owner` may wait before this one.
        max_unfinished: how many jobs of `owner` may wait or run before this one.
    """
    own = jobs.c.owner == owner  # with UNFINISHED, whose index begins with the owner
    if max_unfinished is not None and reached(connection, and_(own, UNFINISHED), max_unfinished):
        raise ConcurrentRequests(
            f"{max_unfinished} requests of this key wait or run already, and no more may be made directly "
            "(max_concurrent_per_key). Nothing was started: wait for one of them, or use the queue."
        )
    if max_waiting is not None and reached(connection, and_(WAITING, UNFINISHED, own), max_waiting):
        raise QueueFull(
            f"{max_waiting} requests of this key wait already (max_queued_per_key). "
            "Nothing was queued; send the request again later."
        )
    if max_queue is not None and full(connection, places, max_queue):
        raise QueueFull


def full(connection: Connection, places: Places, most: int) -> bool:
    """Whether `most` jobs wait; a large number is compared with what is known of the queue, which may be too high."""
    return places.waiting(connection) >= most if most > COUNTED else reached(connection, WAITING, most)


def reached(connection: Connection, which: ColumnElement[bool], most: int) -> bool:
    """Whether there are `most` such jobs, without counting more of them."""
    some = select(jobs.c.seq).where(which).limit(most).subquery()
    return connection.scalar(select(func.count()).select_from(some)) == most
