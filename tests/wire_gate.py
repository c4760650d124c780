"""Gate: jobs that a real server holds until the test lets them go."""

import time
from pathlib import Path
from typing import Any

from tests.wire import Wire


class Gate:
    """Jobs that run until the test opens them. `folder` holds the traces: started, stopped, finished."""

    endpoint = "test/gate"

    def __init__(self, wire: Wire, folder: Path) -> None:
        self.wire = wire
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.submitted: list[dict[str, Any]] = []

    @property
    def body(self) -> dict[str, str]:
        return {"folder": str(self.folder), "prompt": "gate"}

    def submit(self, **headers: str) -> dict[str, Any]:
        self.submitted.append(self.wire.submit(self.endpoint, self.body, **headers))
        return self.submitted[-1]

    def run(self) -> dict[str, Any]:
        """Submit, and wait until it runs."""
        request = self.submit()
        self.wire.wait_for(request, "IN_PROGRESS")
        self.wait_for_trace("started", 1)
        return request

    def occupy(self) -> dict[str, Any]:
        """Run one and have the next one prepared (workers prepare one job ahead): whatever comes now has to wait."""
        running, ahead = self.submit(), self.submit()
        self.wait_for_trace("started", 1)
        self.wire.wait_for(ahead, "IN_PROGRESS")
        return running

    def open(self) -> None:
        (self.folder / "open").touch()

    def trace(self, name: str) -> list[int]:
        """The ids of the processes that left this trace."""
        file = self.folder / name
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def wait_for_trace(self, name: str, times: int, limit_s: float = 60.0) -> list[int]:
        limit = time.monotonic() + limit_s
        while len(self.trace(name)) < times:
            assert time.monotonic() < limit, f"{self.folder / name}: {self.trace(name)} after {limit_s} s"
            time.sleep(0.02)
        return self.trace(name)

    def close(self) -> None:
        """Let every job end, so that the next test finds an idle worker."""
        self.open()
        for request in self.submitted:
            self.wire.wait_for(request, "COMPLETED")
