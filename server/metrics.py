"""Metrics: what each kind of process measures; and how it travels, through the database, to whoever is scraped.

Only the HTTP process is scraped. The others publish theirs as samples (server.queue.measures), and every HTTP process
shows them, each with the name of its process (docs/decisions/0041). docs/metrics.md says what each one means.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric, Sample
from prometheus_client.registry import Collector

WAITS_S = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)
STAGES_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
GAPS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
TRIES_S = (0.05, 0.1, 0.5, 1, 2, 5, 15, 30, 60, 120)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)


class WorkerMetrics:
    """What one worker counts from its start on. Labels hold endpoints and states, never anything of a user's.

    Args:
        submit_to_start: seconds from the submit to a worker's claim, by endpoint and priority (normal, low).
        stage_seconds: by endpoint and stage: fetch, prepare, generate, save.
        gpu_gap: seconds between the end of one generate and the begin of the next, where the next one was waiting.
        out_of_memory: by remedy: again, smaller, recycled.
        card_memory: bytes by kind: allocated, reserved, total; worker_memory: resident bytes of the process.
        jobs: jobs that ended here, by endpoint and outcome: ok, or an error_type.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.submit_to_start = Histogram(
            "veraicon_submit_to_start_seconds",
            "Time from the submit of a request to its claim by a worker.",
            ["endpoint", "priority"],
            buckets=WAITS_S,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "veraicon_stage_seconds",
            "Time of each stage of a request: fetch, prepare, generate, save.",
            ["endpoint", "stage"],
            buckets=STAGES_S,
            registry=registry,
        )
        self.gpu_gap = Histogram(
            "veraicon_gpu_gap_seconds",
            "Idle time of the device while a request was ready.",
            buckets=GAPS_S,
            registry=registry,
        )
        self.batch_size = Histogram(
            "veraicon_batch_size",
            "Requests that were generated together.",
            ["endpoint"],
            buckets=BATCHES,
            registry=registry,
        )
        self.out_of_memory = Counter(
            "veraicon_out_of_memory",
            "Times that the device's memory did not suffice, by remedy.",
            ["remedy"],
            registry=registry,
        )
        self.card_memory = Gauge(
            "veraicon_card_memory_bytes", "Memory of the card, by kind.", ["kind"], registry=registry
        )
        self.worker_memory = Gauge(
            "veraicon_worker_memory_bytes", "Resident memory of the worker's process.", registry=registry
        )
        self.jobs = Counter(
            "veraicon_jobs_finished",
            "Requests that ended in a worker, by outcome.",
            ["endpoint", "outcome"],
            registry=registry,
        )

    def samples(self) -> list[dict[str, Any]]:
        return samples_of(self.registry)


class SupervisorMetrics:
    """What one supervisor counts: ends of its workers by exit code, and which of them it leaves alone (0 or 1)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.restarts = Counter(
            "veraicon_worker_restarts",
            "Workers that ended and were started again, by exit code; a negative one is a signal.",
            ["worker", "exit_code"],
            registry=self.registry,
        )
        self.quarantined = Gauge(
            "veraicon_worker_quarantined",
            "1 while a worker is left alone because it failed again and again.",
            ["worker"],
            registry=self.registry,
        )

    def samples(self) -> list[dict[str, Any]]:
        return samples_of(self.registry)


class WebhookMetrics:
    """What one sender of webhooks counts. `deliveries` by outcome: delivered, retried, given_up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.deliveries = Counter(
            "veraicon_webhook_deliveries", "Tries to send a webhook, by outcome.", ["outcome"], registry=self.registry
        )
        self.attempts = Histogram(
            "veraicon_webhook_attempt_seconds",
            "Time of one try to send a webhook.",
            buckets=TRIES_S,
            registry=self.registry,
        )

    def samples(self) -> list[dict[str, Any]]:
        return samples_of(self.registry)


def samples_of(registry: CollectorRegistry) -> list[dict[str, Any]]:
    """Every family of a registry as JSON."""
    return [
        {
            "name": family.name,
            "type": family.type,
            "help": family.documentation,
            "samples": [[one.name, dict(one.labels), one.value] for one in told(family)],
        }
        for family in registry.collect()
    ]


def told(family: Metric) -> list[Sample]:
    """Without when each began to count: Prometheus tells that from the values."""
    return [one for one in family.samples if not one.name.endswith("_created")]


def families(published: Iterable[tuple[str, Iterable[Mapping[str, Any]]]]) -> Iterator[Metric]:
    """The samples of (process, `samples_of` its registry) as one family per name, each sample with its `process`."""
    found: dict[str, Metric] = {}
    for process, samples in published:
        for family in samples:
            name = family["name"]
            metric = found.setdefault(name, Metric(name, family["help"], family["type"]))
            for sample, labels, value in family["samples"]:
                metric.add_sample(sample, {**labels, "process": process}, value)
    yield from found.values()


class Page(Collector):
    """What was collected, to be written once."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            metric.samples = told(metric)
            yield metric


def text_of(metrics: Iterable[Metric]) -> bytes:
    """Prometheus' text format."""
    return generate_latest(Page(metrics))  # pyright: ignore[reportArgumentType] - it only collects
