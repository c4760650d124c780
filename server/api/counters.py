"""What one HTTP process counts, for /metrics."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from server.metrics import text_of

SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0)


class Counters:
    """What this process counted since it started."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "veraicon_http_requests", "HTTP requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "veraicon_http_request_seconds",
            "Time to the end of the answer, by route.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )

    def text(self) -> bytes:
        return text_of(self.registry.collect())
