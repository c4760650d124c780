"""A GPU that fails again and again is left alone, the others go on, and everybody is told why (docs/decisions/0042)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.api.readiness import readiness_of
from server.queue.job import WorkerState
from server.settings import Settings
from server.supervisor.keeper import Place
from tests.integration.test_supervisor import supervised
from tests.pipelines.broken_card import BROKEN, BROKEN_CARD
from tests.worker_process import Site, eventually

QUARANTINE_S = 4.0
PLACES = [Place("test:0", {"CUDA_VISIBLE_DEVICES": BROKEN}), Place("test:1", {"CUDA_VISIBLE_DEVICES": "GPU-whole"})]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    catalog = "tests.pipelines.broken_card:CATALOG"
    site = Site(tmp_path, catalog=catalog, quarantine_after=2, quarantine_s=QUARANTINE_S, max_attempts=9)
    yield site
    site.queue.close()


def states(site: Site) -> dict[str, str]:
    return {worker.name: worker.state for worker in site.queue.workers()}


def measured(site: Site, name: str) -> dict[tuple[str, ...], float]:
    """The published samples of one name, by the values of their labels."""
    families = [family for measure in site.queue.measures.every() for family in measure.samples]
    samples = [sample for family in families for sample in family["samples"]]
    return {tuple(labels.values()): value for found, labels, value in samples if found == name}


def test_a_failing_gpu_is_left_alone_while_the_other_goes_on_and_tried_again_later(site):
    with supervised(site, PLACES):
        jobs = [site.put(BROKEN_CARD, seed=seed, steps=4, step_s=0.05) for seed in range(30)]
        alone = eventually(lambda: quarantined(site))
        assert measured(site, "veraicon_worker_quarantined")[("test:0",)] == 1
        assert measured(site, "veraicon_worker_restarts_total")[("test:0", "75")] >= 2
        assert "exit code 75: the device was lost" in alone.message
        assert "left alone until" in alone.message
        eventually(lambda: states(site).get("test:1") == "ready")
        assert readiness_of(site.queue, Settings(data_dir=site.folder)).reasons == []
        assert [site.done(job).http_status for job in jobs] == [200] * len(jobs)
        eventually(lambda: states(site).get("test:0") in {"loading", "ready"})
    assert site.queue.workers() == []
    assert site.queue.measures.every() == []


def quarantined(site: Site) -> WorkerState | None:
    """The broken place, once it is told and measured as left alone."""
    told = measured(site, "veraicon_worker_quarantined").get(("test:0",))
    return next((one for one in site.queue.workers() if told and one.state == "quarantined"), None)
