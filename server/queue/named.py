"""Named: which stored files the rows of the queue name, as ``"file:<id>"`` in their JSON."""

import re
from collections.abc import Collection

from sqlalchemy import Connection, Text, cast, or_, select

from server.queue.tables import jobs

STORED_FILE = re.compile(r'"file:([0-9a-f]{32}_[A-Za-z0-9._-]+)"')
INPUT, RESULT = cast(jobs.c.input, Text), cast(jobs.c.result, Text)
AT_ONCE = 1000


def unnamed(connection: Connection, file_ids: Collection[str], but: Collection[str] = ()) -> set[str]:
    """Those of these files that no request names, or only the requests `but`. Reads every row that names a file."""
    left = set(file_ids)
    if not left:
        return left
    naming = select(INPUT, RESULT).where(or_(INPUT.contains('"file:'), RESULT.contains('"file:')))
    others = naming.where(jobs.c.id.not_in(but)) if but else naming
    for given, made in connection.execution_options(yield_per=AT_ONCE).execute(others):
        left.difference_update(STORED_FILE.findall(given), STORED_FILE.findall(made or ""))
    return left
