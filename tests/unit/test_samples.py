"""Metrics travel as JSON from the process that measured to the one that is scraped, and lose nothing on the way."""

import json

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from server.metrics import SupervisorMetrics, WebhookMetrics, WorkerMetrics, families


class Emitted(Collector):
    """What an HTTP process would show of these processes' samples."""

    def __init__(self, published):
        self.published = published

    def collect(self):
        yield from families(self.published)


def scraped(*published) -> dict[str, Metric]:
    """As Prometheus reads it, after the samples went through the database's JSON."""
    registry = CollectorRegistry()
    registry.register(Emitted([(process, json.loads(json.dumps(samples))) for process, samples in published]))
    return {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}


def value(family: Metric, name: str, **labels: str) -> float:
    [found] = [one.value for one in family.samples if one.name == name and one.labels == labels]
    return found


def test_counters_gauges_and_histograms_arrive_with_the_name_of_their_process():
    worker = WorkerMetrics()
    worker.jobs.labels("fal-ai/pulid", "ok").inc(3)
    worker.worker_memory.set(5e9)
    worker.gpu_gap.observe(0.004)
    shown = scraped(("gpu:0", worker.samples()))

    finished, memory, gap = (
        shown[f"veraicon_{name}"] for name in ("jobs_finished", "worker_memory_bytes", "gpu_gap_seconds")
    )
    labels = {"endpoint": "fal-ai/pulid", "outcome": "ok", "process": "gpu:0"}
    assert (finished.type, value(finished, "veraicon_jobs_finished_total", **labels)) == ("counter", 3)
    assert (memory.type, value(memory, "veraicon_worker_memory_bytes", process="gpu:0")) == ("gauge", 5e9)
    assert (gap.type, value(gap, "veraicon_gpu_gap_seconds_bucket", process="gpu:0", le="0.005")) == ("histogram", 1)
    assert value(gap, "veraicon_gpu_gap_seconds_bucket", process="gpu:0", le="0.002") == 0
    assert value(gap, "veraicon_gpu_gap_seconds_sum", process="gpu:0") == 0.004


def test_two_processes_share_a_family_and_stay_apart():
    """Prometheus refuses a page that declares one name twice."""
    first, second = WorkerMetrics(), WorkerMetrics()
    first.batch_size.labels("fal-ai/pulid").observe(4)
    second.batch_size.labels("fal-ai/pulid").observe(1)
    family = scraped(("a:0", first.samples()), ("b:0", second.samples()))["veraicon_batch_size"]
    sums = {one.labels["process"]: one.value for one in family.samples if one.name.endswith("_sum")}
    assert sums == {"a:0": 4, "b:0": 1}


def test_instances_count_for_themselves():
    """No module globals: two workers in one process would otherwise count into one."""
    first, second = WebhookMetrics(), WebhookMetrics()
    first.deliveries.labels("delivered").inc()
    assert [len(family["samples"]) for family in first.samples() if "deliveries" in family["name"]] == [1]
    assert [len(family["samples"]) for family in second.samples() if "deliveries" in family["name"]] == [0]


@pytest.mark.parametrize("metrics", [WorkerMetrics, SupervisorMetrics, WebhookMetrics])
def test_every_family_has_a_name_of_ours_and_a_sentence(metrics):
    for family in metrics().samples():
        assert family["name"].startswith("veraicon_")
        assert family["help"].endswith(".")


def test_a_row_stays_small_with_both_endpoints_all_stages_and_all_outcomes():
    """Rows of the queue's database are 64 KiB at most."""
    worker = WorkerMetrics()
    for endpoint in ("fal-ai/pulid", "fal-ai/instantid/lcm"):
        for priority in ("normal", "low"):
            worker.submit_to_start.labels(endpoint, priority).observe(1)
        for stage in ("fetch", "prepare", "generate", "save"):
            worker.stage_seconds.labels(endpoint, stage).observe(1)
        for outcome in range(20):
            worker.jobs.labels(endpoint, f"some_error_type_{outcome}").inc()
    assert len(json.dumps(worker.samples())) < 64 * 1024
