"""Named: which stored files the rows of the queue name, as ``"file:<id>"`` in their JSON."""

import re
from collections.abc import Collection, Iterable, Iterator

from sqlalchemy import Connection, Text, cast, or_, select

from server.queue.tables import jobs

STORED_FILE = re.compile(r'"file:([0-9a-f]{32}_[A-Za-z0-9._-]+)"')
INPUT, RESULT = cast(jobs.c.input, Text), cast(jobs.c.result, Text)
AT_ONCE = 1000
MOST_NAMED = 500
"""Ids in one statement, and so in one transaction: no submit waits long."""


def unnamed(connection: Connection, file_ids: Collection[str], but: Collection[str] = (), after: int = 0) -> set[str]:
    """Those of these files that no request names, or only the requests `but`. Reads every row that names a file.

    Args:
        after: ask only the requests with a higher seq.
    """
    left = set(file_ids)
    if not left:
        return left
    naming = select(INPUT, RESULT).where(jobs.c.seq > after, or_(INPUT.contains('"file:'), RESULT.contains('"file:')))
    others = naming.where(jobs.c.id.not_in(but)) if but else naming
    for given, made in connection.execute(others.execution_options(yield_per=AT_ONCE)):
        left.difference_update(STORED_FILE.findall(given), STORED_FILE.findall(made or ""))
    return left


def batches(ids: Iterable[str], most: int = MOST_NAMED) -> Iterator[list[str]]:
    """`ids` in portions that one statement can name."""
    left = list(ids)
    for start in range(0, len(left), most):
        yield left[start : start + most]
