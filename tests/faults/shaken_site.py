"""ShakenSite: a FaultSite whose power can be cut, whose database fails, and whose clock jumps (ShimmedServer)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.site import FaultSite
from tests.shimmed_server import ShimmedServer
from tests.wire_checks import assert_is_request_error


class ShakenSite(FaultSite):
    process = ShimmedServer
    server: ShimmedServer

    @property
    def database(self) -> Path:
        return self.server.data_dir / "queue.db"

    @contextmanager
    def alone(self) -> Iterator[Path]:
        """Inside, only the server has its database open, so that a test may kill it and change the file."""
        self.queue.close()
        try:
            yield self.database
        finally:
            self.queue = self.open_queue()

    def assert_takes_nothing(self) -> None:
        """A submit is refused for now: the client is told to come again, and nothing is stored."""
        before = {job.id for job in self.stored()}
        refused = self.anna.post("/fal-ai/pulid", self.portrait())
        assert_is_request_error(refused, 503, "service_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["x-fal-needs-retry"] == "true"
        assert {job.id for job in self.stored()} == before
