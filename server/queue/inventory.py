"""Inventory: the stored files against the rows that name them: nothing missing, nothing that nobody knows."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

from sqlalchemy import Connection, Text, case, cast, select

from server.queue.named import STORED_FILE
from server.queue.tables import files, jobs

AT_ONCE = 1000
"""Rows in memory at a time."""
# What of each job may name files. An error's body repeats its client's words, and names nothing.
NAMING = select(
    *(jobs.c.id, jobs.c.state, jobs.c.created_at, jobs.c.finished_at, jobs.c.lifecycle, jobs.c.drafts),
    cast(jobs.c.input, Text).label("given"),
    case((jobs.c.http_status < 400, cast(jobs.c.result, Text))).label("made"),
)


class FileStore(Protocol):
    """What the audit asks of server.files.FileStore."""

    def listing(self) -> Iterator[tuple[str, int, bool]]: ...
    def stat(self, file_id: str) -> Any: ...


@dataclass(frozen=True)
class Stock:
    """What the file store held: bytes by the ids of whole files, and the ids of which there are parts or drafts."""

    store: FileStore
    whole: Mapping[str, int]
    pieces: frozenset[str]

    @classmethod
    def of(cls, store: FileStore) -> Self:
        listed = list(store.listing())
        whole = {file_id: size for file_id, size, is_whole in listed if is_whole}
        return cls(store, whole, frozenset(file_id for file_id, _, is_whole in listed if not is_whole))

    def size(self, file_id: str) -> int | None:
        """Bytes; None when it is not there. What is not listed may have been written since."""
        return self.whole.get(file_id) or self.size_now(file_id)

    def size_now(self, file_id: str) -> int | None:
        try:
            return self.store.stat(file_id).size
        except LookupError:
            return None


def files_amiss(connection: Connection, stock: Stock, *, quiet: bool, keep_s: float) -> Iterator[str]:
    """What is wrong with the files, a sentence each. Arguments: see server.queue.audit.audit."""
    entered = set(connection.scalars(select(files.c.id)))
    named, makers = set(entered), dict[str, str]()
    for row in connection.execution_options(yield_per=AT_ONCE).execute(NAMING):
        photos, made = STORED_FILE.findall(row.given), pictures(json.loads(row.made)) if row.made else {}
        named.update(photos, made, () if quiet else row.drafts or ())
        yield from photos_amiss(row, photos, stock, keep_s)
        yield from pictures_amiss(row, made, stock, keep_s)
        for file_id in made:
            if (other := makers.setdefault(file_id, row.id)) != row.id:
                yield f"the requests {other} and {row.id} have the same picture {short(file_id)}"
    yield from unknown(stock, named, entered if quiet else named)


def photos_amiss(row: Any, photos: list[str], stock: Stock, keep_s: float) -> Iterator[str]:
    """Photos that an unfinished request will need."""
    if row.state != "COMPLETED" and time.time() - row.created_at < keep_s:
        for file_id in photos:
            if stock.size(file_id) is None:
                yield f"request {row.id} needs the photo {short(file_id)}, which is not stored"


def pictures_amiss(row: Any, made: Mapping[str, int | None], stock: Stock, keep_s: float) -> Iterator[str]:
    """Pictures of a result, as long as they are kept."""
    wished_s = (row.lifecycle or {}).get("keep_s") or keep_s
    if not made or time.time() - row.finished_at >= min(wished_s, keep_s):
        return
    for file_id, told in made.items():
        size = stock.size(file_id)
        if size is None:
            yield f"request {row.id} is finished, but its picture {short(file_id)} is not stored"
        elif told not in {None, size}:
            yield f"request {row.id} says that its picture {short(file_id)} has {told} bytes, but {size} are stored"


def unknown(stock: Stock, named: set[str], in_work: set[str]) -> Iterator[str]:
    """Files that nobody knows, and drafts of files that nobody is writing."""
    for file_id in stock.whole.keys() - named:
        if stock.size_now(file_id) is not None:  # swept meanwhile, else
            yield f"the file {short(file_id)} is stored, but no request and no upload knows it"
    for file_id in stock.pieces - in_work:
        yield f"the file {short(file_id)} was left half written"


def pictures(body: Any) -> dict[str, int | None]:
    """File id -> bytes as told, of each file that a result's body names."""
    found: dict[str, int | None] = {}
    if isinstance(body, list):
        for value in body:
            found |= pictures(value)
    elif isinstance(body, dict):
        for value in body.values():
            found |= pictures(value)
        if isinstance(url := body.get("url"), str) and url.startswith("file:"):
            found[url.removeprefix("file:")] = body.get("file_size")
    return found


def short(file_id: str) -> str:
    """Enough of an id to find its file; whoever reads the whole of it may fetch the picture."""
    return f"{file_id[:12]}…"
