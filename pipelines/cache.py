"""What requests have in common, kept for a while: faces found, identity tokens, encoded texts. In memory only."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from pipelines.sdxl.tree import parts

Value = TypeVar("Value")

MB = 1_000_000


@dataclass(frozen=True)
class Kept:
    """A value, its size in bytes, and when it goes, by the monotonic clock."""

    value: Any
    size: int
    until: float


class Cache:
    """Values by what they were made of, bounded in bytes and in age. Safe to use from several threads.

    The least recently used value goes first when there is no room. A value goes when it is too old, asked for or not:
    faces are biometric data, and the one who keeps them has promised for how long.

    Args:
        most_mb: 0 keeps nothing. most_s: seconds from when a value was made.
    """

    def __init__(self, most_mb: float = 0, most_s: float = 600) -> None:
        self._most, self._most_s = most_mb * MB, most_s
        self._kept = OrderedDict[Hashable, Kept]()
        self._lock = threading.Lock()
        self._sweeper: threading.Timer | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value kept under `key`, or `make()`, which is then kept. Nobody may change it; None is not kept."""
        with self._lock:
            self._sweep()
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key].value
        value = make()
        size = size_of(value)
        if value is not None and size <= self._most:
            with self._lock:
                self._keep(key, Kept(value, size, time.monotonic() + self._most_s))
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def _keep(self, key: Hashable, kept: Kept) -> None:
        self._kept[key] = kept
        while sum(one.size for one in self._kept.values()) > self._most:
            self._kept.popitem(last=False)
        if self._sweeper is None:
            self._sweep_later()

    def _sweep(self) -> None:
        now = time.monotonic()
        for key in [key for key, kept in self._kept.items() if kept.until <= now]:
            del self._kept[key]

    def _sweep_later(self) -> None:
        oldest = min(kept.until for kept in self._kept.values())
        self._sweeper = threading.Timer(max(0.0, oldest - time.monotonic()), self._on_time)
        self._sweeper.daemon = True
        self._sweeper.start()

    def _on_time(self) -> None:
        with self._lock:
            self._sweep()
            self._sweeper = None
            if self._kept:
                self._sweep_later()


def size_of(value: Any) -> int:
    """Bytes of the tensors and arrays in a value."""
    own = getattr(value, "nbytes", None)
    return sum(size_of(inner) for _, inner in parts(value)) if own is None else own


def digest(*arrays: NDArray[Any]) -> bytes:
    """SHA-256 of arrays: equal for equal shapes, types and contents only."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.shape} {array.dtype} ".encode())
        sha.update(array.tobytes())
    return sha.digest()
