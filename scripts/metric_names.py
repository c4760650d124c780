"""Every metric that /metrics may show, told by the code that makes them; docs/metrics.md must describe each."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from server.api.counters import Counters
from server.api.gauges import fals, ours, paused, up
from server.metrics import SupervisorMetrics, WebhookMetrics, WorkerMetrics
from server.queue.census import Figures

NOTHING = Figures(states={}, depths=(), running={}, received={}, ended=(), webhooks=0)


def families() -> Iterator[Metric]:
    for process in (Counters(), WorkerMetrics(), SupervisorMetrics(), WebhookMetrics()):
        yield from process.registry.collect()
    yield from ours(NOTHING, (), ())
    yield from fals(NOTHING, (), ())
    yield from (up(True), paused(()))


def names() -> set[str]:
    """As Prometheus' queries name them: a counter with its _total, a histogram without _bucket, _sum and _count."""
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families()}
