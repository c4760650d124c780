"""/metrics on a real server and on both databases: what is counted, that it is cheap, and that it names nobody."""

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from scripts.check_docs import undescribed
from scripts.metric_names import names
from server.api.gauges import Gauges
from server.metrics import WorkerMetrics
from server.queue.job import WorkerState
from server.queue.queue import Queue
from tests.app import running_app
from tests.wire import Wire
from tests.wire_receiver import Receiver
from tests.worker_process import eventually

ROOT = Path(__file__).parents[2]
ONE, OTHER = "fal-ai/pulid", "fal-ai/instantid/lcm"
NAME = re.compile(r"\b(?:veraicon|fal_app)_[a-z_]+")


def put(queue: Queue, endpoint: str = ONE, priority: int = 0, **more) -> str:
    terms = {"owner": "anna", "base_url": "http://x"} | more
    return queue.put(endpoint, {"prompt": "secret words"}, priority=priority, **terms).id


def shown(text: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    [found] = [one.value for one in families[name].samples if one.labels == labels]
    return found


def test_the_queue_is_counted_by_endpoint_priority_and_state(queue):
    for endpoint, priority in ((ONE, 0), (ONE, 0), (ONE, 1), (OTHER, 0)):
        put(queue, endpoint, priority)
    [running] = queue.claim("w", [OTHER])
    put(queue, finished=(422, {"detail": []}, "bad_request"))
    put(queue, finished=(200, {"images": []}, None), webhook="http://127.0.0.1:9/")
    time.sleep(0.05)
    figures = queue.census.take()

    depths = {(depth.endpoint, depth.priority): depth for depth in figures.depths}
    assert {key: depth.number for key, depth in depths.items()} == {(ONE, 0): 2, (ONE, 1): 1}
    assert all(0.05 <= depth.oldest_s < 60 for depth in figures.depths)
    assert figures.states == {"IN_QUEUE": 3, "IN_PROGRESS": 1, "COMPLETED": 2}
    assert figures.running == {running.endpoint: 1}
    assert figures.received == {ONE: 5, OTHER: 1}
    assert {(ended.endpoint, ended.http_status, ended.number) for ended in figures.ended} == {
        (ONE, 200, 1),
        (ONE, 422, 1),
    }
    assert all(ended.within[-1] == 1 for ended in figures.ended)
    assert figures.webhooks == 1


def test_an_empty_queue_is_counted_too(queue):
    figures = queue.census.take()
    assert (figures.depths, figures.received, figures.ended, figures.webhooks) == ([], {}, [], 0)
    assert set(figures.states.values()) == {0}


def test_processes_that_share_a_name_by_mistake_do_not_hinder_each_other(open_queue):
    queues = [open_queue() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for publishing in [pool.submit(queue.measures.publish, "a:0", []) for _ in range(20) for queue in queues]:
            publishing.result()

    assert [measure.process for measure in queues[0].measures.every()] == ["a:0"]


def test_processes_publish_until_they_leave_or_fall_silent(queue):
    """LEASE_S of these queues is 0.6 s."""
    metrics = WorkerMetrics()
    queue.measures.publish("a:0", metrics.samples())
    metrics.jobs.labels(ONE, "ok").inc()
    queue.measures.publish("a:0", metrics.samples())
    queue.measures.publish("b:0", metrics.samples())
    assert [measure.process for measure in queue.measures.every()] == ["a:0", "b:0"]
    assert queue.measures.every()[0].samples == metrics.samples()
    queue.measures.forget("b:0")
    assert [measure.process for measure in queue.measures.every()] == ["a:0"]
    eventually(lambda: not queue.measures.every(), limit_s=10)


def test_a_page_tells_both_names_and_every_process(queue):
    put(queue, priority=1)
    worker = WorkerMetrics()
    worker.out_of_memory.labels("smaller").inc(2)
    queue.measures.publish("studio:0", worker.samples())
    for name, state in (("studio:0", "ready"), ("studio:1", "quarantined"), ("studio:2", "ready")):
        queue.publish_worker(WorkerState(name, "studio", "cuda", state, "", 0))
    queue.pauses.pause(OTHER)
    page = shown(Gauges(queue, [ONE, OTHER]).text())

    assert value(page, "veraicon_queue_up") == 1
    assert value(page, "veraicon_queue_depth", endpoint=ONE, priority="low") == 1
    assert value(page, "veraicon_queue_depth", endpoint=OTHER, priority="normal") == 0
    assert value(page, "veraicon_worker", device="cuda", state="ready") == 2
    assert value(page, "veraicon_paused", endpoint=OTHER) == 1
    assert value(page, "veraicon_out_of_memory", remedy="smaller", process="studio:0") == 2
    assert value(page, "fal_app_queue_size", application=ONE) == 1
    assert value(page, "fal_app_runners", application=OTHER, state="dead", machine_type="cuda") == 1
    assert value(page, "fal_app_requests_received", application=ONE, method="POST") == 1


def test_fals_latency_is_cumulative_as_fal_documents_it(queue):
    for status in (200, 200, 422):
        put(queue, finished=(status, {}, None))
    page = shown(Gauges(queue, [ONE]).text())
    buckets = {one.labels["le"]: one.value for one in page["fal_app_request_latency"].samples}
    assert (buckets["0.5"], buckets["+Inf"]) == (3, 3)
    assert value(page, "fal_app_requests_completed", application=ONE, method="POST", status="200") == 2


def test_scrapes_of_a_long_queue_share_a_page(queue):
    """However often it is asked, a page is made for at most 2 % of the time."""
    gauges = Gauges(queue, [ONE])
    began = time.monotonic()
    first = gauges.text()
    took = time.monotonic() - began
    put(queue)
    assert gauges.text() == first
    eventually(lambda: value(shown(gauges.text()), "veraicon_queue_depth", endpoint=ONE, priority="normal") == 1)
    assert time.monotonic() - began >= min(15, 10 * took)


def test_without_its_queue_the_page_says_so_and_still_counts_http(tmp_path):
    with running_app(tmp_path) as (client, _), sqlite3.connect(tmp_path / "queue.db") as database:
        client.get("/health")
        database.execute("ALTER TABLE outbox RENAME TO hidden")
        database.commit()
        answer = client.get("/metrics")
    database.close()
    page = shown(answer.content)
    assert answer.status_code == 200
    assert value(page, "veraicon_queue_up") == 0
    assert value(page, "veraicon_http_requests", route="/health", status="200") == 1


def declared(wire: Wire) -> set[str]:
    """The names on a real server's page, as queries name them."""
    return {line.split()[2] for line in page_of(wire).splitlines() if line.startswith("# TYPE")}


@pytest.fixture(scope="module")
def all_declared(wire) -> set[str]:
    """Once the worker, the supervisor and the sender of webhooks have published."""
    last = {"veraicon_stage_seconds", "veraicon_worker_quarantined", "veraicon_webhook_deliveries_total"}
    eventually(lambda: last <= declared(wire), limit_s=30)
    return declared(wire)


def test_every_metric_of_a_real_server_is_described_and_every_described_one_is_there(all_declared):
    assert all_declared == names()
    assert list(undescribed((ROOT / "docs" / "metrics.md").read_text())) == []


def test_a_metric_that_nobody_describes_is_found():
    assert list(undescribed("| `veraicon_nonsense` | | |")) != []
    assert "docs/metrics.md: there is no metric veraicon_nonsense" in undescribed("| `veraicon_nonsense` | | |")


def queries(panels: list[dict]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", []))
        yield from queries(panel.get("panels", []))


def test_the_dashboard_shows_every_metric_and_none_that_is_not_there(all_declared):
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    asked = {name for query in queries(board["panels"]) for name in NAME.findall(query)}
    known = all_declared | {f"{name}_{part}" for name in all_declared for part in ("bucket", "sum", "count")}
    assert asked <= known
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in asked} == all_declared
    assert [variable["type"] for variable in board["templating"]["list"]] == ["datasource"]
    assert {panel["datasource"]["uid"] for panel in board["panels"] if "targets" in panel} == {"${datasource}"}


def test_a_request_leaves_its_times_and_nothing_of_its_user(wire):
    """Neither ids nor prompts nor addresses: labels are endpoints, states and processes."""
    with Receiver() as receiver:
        body = {"prompt": "a very secret prompt", "steps": 2}
        request = wire.submit("test/blue-square", body, query=f"?fal_webhook={receiver.url}/very/secret/hook")
        wire.finish(request)
        receiver.wait()
        finished = 'veraicon_jobs_finished_total{endpoint="test/blue-square",outcome="ok"'
        told = 'veraicon_webhook_deliveries_total{outcome="delivered"'
        eventually(lambda: finished in page_of(wire) and told in page_of(wire), limit_s=30)
    text = page_of(wire)
    assert 'veraicon_stage_seconds_count{endpoint="test/blue-square"' in text
    assert "secret" not in text
    assert request["request_id"] not in text
    assert receiver.url.removeprefix("http://") not in text


def page_of(wire: Wire) -> str:
    return wire.get("/metrics", host=None).body.decode()
