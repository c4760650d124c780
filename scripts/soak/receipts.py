"""Receipts: what each client was told, from which the checks know what must be there; kept beside the logs."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from scripts.soak.orders import Kind


@dataclass(frozen=True)
class Fetched:
    """One fetch of a result.

    Args:
        status: HTTP status of the result.
        body: SHA-256 of the result's bytes.
        pictures: file id -> SHA-256 of the picture's bytes.
    """

    status: int
    body: str
    pictures: Mapping[str, str]


@dataclass(frozen=True)
class Receipt:
    """What became of one order.

    Args:
        key / kind / webhook: the order's.
        request_ids: one for each acknowledgement.
        path: where its result is fetched.
        fetched: each time that the result was fetched.
        trouble: what the client was told that no client should be; None: nothing.
    """

    key: str
    kind: Kind
    webhook: bool
    request_ids: tuple[str, ...] = ()
    path: str = ""
    fetched: tuple[Fetched, ...] = ()
    trouble: str | None = None

    @property
    def request_id(self) -> str | None:
        return self.request_ids[0] if self.request_ids else None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """A receipt from its JSON."""
        fetched = tuple(Fetched(**one) for one in stored["fetched"])
        return cls(**{**stored, "request_ids": tuple(stored["request_ids"]), "fetched": fetched})


@dataclass(frozen=True)
class Delivery:
    """One webhook as it arrived: the order's key, the request id in its header, SHA-256 of its body, our answer."""

    key: str
    request_id: str
    body: str
    answered: int


@dataclass(frozen=True)
class Evidence:
    """Everything that was told to the outside."""

    receipts: tuple[Receipt, ...]
    deliveries: tuple[Delivery, ...]

    def write(self, file: Path) -> None:
        file.write_text(json.dumps({"receipts": rows(self.receipts), "deliveries": rows(self.deliveries)}, indent=1))

    @classmethod
    def read(cls, file: Path) -> Self:
        stored = json.loads(file.read_text())
        receipts = tuple(Receipt.of(one) for one in stored["receipts"])
        return cls(receipts, tuple(Delivery(**one) for one in stored["deliveries"]))


def rows(values: Iterable[Receipt] | Iterable[Delivery]) -> list[dict[str, Any]]:
    return [asdict(value) for value in values]
