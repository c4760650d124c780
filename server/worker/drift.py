"""Drift: how much the memory of this process has grown since its first jobs, which no job should make it do."""

import os
from pathlib import Path

STATM = Path("/proc/self/statm")
FIRST_JOBS = 8
"""After so many, libraries have what they keep: pools of threads, kernels, work spaces."""


class Drift:
    """For one thread. `limit`: bytes of growth that are too much.

    An endpoint's first job begins the count anew: what its pipeline moves into pinned memory then, it keeps.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._done = limit, 0
        self._base: int | None = None
        self._used: set[str] = set()

    def after(self, jobs: int, endpoint: str) -> int:
        """By how many bytes the process has grown too much, else 0, so many jobs of an endpoint later."""
        if endpoint not in self._used:
            self._used.add(endpoint)
            self._done, self._base = 0, None
        self._done += jobs
        if self._done < FIRST_JOBS:
            return 0
        now = own_memory()
        if self._base is None:
            self._base = now
        grown = now - self._base
        return grown if grown > self._limit else 0


def resident_memory() -> int:
    """Bytes of this process in the computer's memory, with what it shares with others."""
    return pages()[0]


def own_memory() -> int:
    """Bytes of this process alone: without files, whose pages the kernel takes back when it needs room."""
    resident, shared = pages()
    return resident - shared


def pages() -> tuple[int, int]:
    """Resident and shared bytes (proc(5), statm)."""
    resident, shared = STATM.read_text().split()[1:3]
    size = os.sysconf("SC_PAGE_SIZE")
    return int(resident) * size, int(shared) * size
