"""Checks: whether the site kept every promise: what clients were told against the database, the files, the webhooks."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select

from scripts.soak.clients import digest
from scripts.soak.receipts import Delivery, Evidence, Receipt
from server.files import FileMissing, FileStore
from server.queue.audit import audit
from server.queue.queue import Queue
from server.queue.store import Store
from server.queue.tables import jobs

EXPECTED = {"plain": {200}, "low": {200}, "cancelled": {200, 499}, "invalid": {422}}
"""HTTP statuses of a result, by the kind of its order."""


@dataclass(frozen=True)
class Finding:
    """A broken promise.

    Args:
        breach: lost: an acknowledged request without its result; doubled: one order that became several requests or
            results; webhook: not told, or told differently; amiss: anything else.
    """

    breach: Literal["lost", "doubled", "webhook", "amiss"]
    text: str


def findings(evidence: Evidence, database_url: str, files: FileStore) -> list[Finding]:
    """Every broken promise of a site whose services have stopped, and whose stores still run."""
    found = [
        finding
        for receipt in evidence.receipts
        for finding in (*promises(receipt), *pictures(receipt, files), *webhooks(receipt, evidence.deliveries))
    ]
    queue = Queue(database_url, lease_s=1, max_attempts=1)
    try:
        told = audit(queue, files, quiet=True)
    finally:
        queue.close()
    strangers = webhooks_of_nobody(evidence)
    return [*found, *rows(evidence, database_url), *strangers, *(Finding("amiss", one) for one in told)]


def promises(receipt: Receipt) -> Iterator[Finding]:
    """What the client itself has seen."""
    name = name_of(receipt)
    if receipt.trouble:
        yield Finding("amiss", f"{name}: {receipt.trouble}")
    if len(set(receipt.request_ids)) > 1:
        yield Finding("doubled", f"{name} was acknowledged as {', '.join(receipt.request_ids)}")
    if receipt.request_id and not receipt.fetched:
        yield Finding("lost", f"{name} was acknowledged and has no result")
    if len(set(map(repr, receipt.fetched))) > 1:
        yield Finding("doubled", f"{name} had another result when it was fetched again")
    for status in {one.status for one in receipt.fetched} - EXPECTED[receipt.kind]:
        yield Finding("amiss", f"{name} is {receipt.kind} and ended with status {status}")
    for one in receipt.fetched:
        if one.status == 200 and len(one.pictures) != 1:
            yield Finding("amiss", f"{name} has {len(one.pictures)} pictures instead of 1")


def rows(evidence: Evidence, database_url: str) -> Iterator[Finding]:
    """Each acknowledged request is a finished row, and there is no other row."""
    store = Store(database_url)
    with store.reading() as connection:
        states = {row.id: row.state for row in connection.execute(select(jobs.c.id, jobs.c.state))}
    store.close()
    for receipt in evidence.receipts:
        state = states.get(receipt.request_id or "", "not stored")
        if receipt.request_id and state != "COMPLETED":
            yield Finding("lost", f"{name_of(receipt)} was acknowledged and is {state}")
    acknowledged = {request_id for receipt in evidence.receipts for request_id in receipt.request_ids}
    for request_id in states.keys() - acknowledged:
        yield Finding("doubled", f"request {request_id} is stored, and no client knows it")


def pictures(receipt: Receipt, files: FileStore) -> Iterator[Finding]:
    """The stored bytes are those that the client has."""
    for file_id, known in {pair for one in receipt.fetched for pair in one.pictures.items()}:
        try:
            if digest(files.read(file_id)) != known:
                yield Finding("amiss", f"{name_of(receipt)}: picture {file_id} has changed since its client read it")
        except FileMissing:
            yield Finding("lost", f"{name_of(receipt)}: picture {file_id} is gone")


def webhooks(receipt: Receipt, deliveries: tuple[Delivery, ...]) -> Iterator[Finding]:
    """Told at least once until the receiver took it, and each time the same."""
    name, mine = name_of(receipt), [one for one in deliveries if one.key == receipt.key]
    if receipt.webhook and receipt.request_id and 200 not in {one.answered for one in mine}:
        yield Finding("webhook", f"{name}: its webhook was tried {len(mine)} times and never taken")
    if mine and not receipt.webhook:
        yield Finding("webhook", f"{name} wanted no webhook and got {len(mine)}")
    if {one.request_id for one in mine} - {receipt.request_id}:
        yield Finding("webhook", f"{name}: its webhook came under the ids {sorted({one.request_id for one in mine})}")
    if len({one.body for one in mine}) > 1:
        yield Finding("webhook", f"{name}: its webhook came with different bodies")


def webhooks_of_nobody(evidence: Evidence) -> Iterator[Finding]:
    ordered = {receipt.key for receipt in evidence.receipts}
    for key, number in Counter(one.key for one in evidence.deliveries if one.key not in ordered).items():
        yield Finding("webhook", f"{number} webhooks came for {key}, which nobody ordered")


def name_of(receipt: Receipt) -> str:
    return f"order {receipt.key} (request {receipt.request_id or 'never acknowledged'})"
