"""Workers that are killed, or stopped for too long: their requests run again and have one result."""

from collections.abc import Iterator

import psutil
import pytest

from tests.faults.scene import STORED
from tests.faults.site import FaultSite
from tests.worker_process import eventually


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, face_photo: str) -> Iterator[FaultSite]:
    """Two workers, so that one is there when the other is not."""
    with FaultSite(tmp_path_factory.mktemp("site"), face_photo, workers=2) as site:
        yield site


def test_a_worker_killed_before_the_first_step_costs_a_second_attempt(site, scene):
    """row 1: and there is one result."""
    before = site.pictures()
    request = site.run(scene, step=0)
    psutil.Process(scene.runs[-1]).kill()
    scene.release()

    assert site.finish(request).status == 200
    assert site.job(request).attempt == 2
    assert len(scene.runs) == 2
    assert scene.steps == [0, 0, 1, 2, 3, 4]
    assert site.pictures() == before + 1


def test_a_worker_killed_amid_the_steps_restarts_the_progress_and_the_stream_stays_open(site, scene):
    """row 2: the same stream tells of both runs and ends with the result."""
    request = site.run(scene, step=2)
    with site.stream(request) as events:
        messages = []
        for event in events:
            messages += [line["message"] for line in event.get("logs") or []]
            if "Step 1/4" in messages and scene.held:
                psutil.Process(scene.runs[-1]).kill()
                scene.release()

    assert event["status"] == "COMPLETED"
    assert site.finish(request).status == 200
    assert messages.count("Step 1/4") == 2
    assert messages.count("Step 4/4") == 1
    assert scene.steps == [0, 1, 2, 0, 1, 2, 3, 4]
    assert site.job(request).attempt == 2


def test_a_worker_that_slept_past_its_lease_changes_nothing_when_it_wakes(site, scene):
    """row 8: the other one has finished; the sleeper's late result is dropped, its picture with it."""
    eventually(lambda: [worker.state for worker in site.queue.workers()] == ["ready"] * 2)
    request = site.run(scene, step=2)
    sleeper = psutil.Process(scene.runs[-1])
    sleeper.suspend()
    scene.wait_for(step=2, times=2)
    scene.release()
    result = site.finish(request)
    job = site.job(request)
    sleeper.resume()
    eventually(lambda: "job lost" in site.server.log or "result dropped" in site.server.log)

    assert result.status == 200
    assert len(set(scene.runs)) == 2
    assert site.anna.result(request).body == result.body
    assert site.job(request) == job


def test_a_worker_killed_between_a_pictures_file_and_its_row_leaves_no_file(site, scene):
    """row 3: the file that nobody names is swept, the request runs again and has one result."""
    before = pngs(site)
    request = site.run(scene, step=STORED)
    [orphan] = pngs(site) - before
    psutil.Process(scene.runs[-1]).kill()
    scene.release()
    result = site.finish(request)
    url = result.json["images"][0]["url"]
    eventually(lambda: orphan not in pngs(site))
    [kept] = pngs(site) - before

    assert result.status == 200
    assert site.job(request).attempt == len(scene.runs) == 2
    assert url.endswith(kept)
    assert site.anna.follow(url).status == 200


def pngs(site: FaultSite) -> set[str]:
    return {file_id for file_id, _, _ in site.files.listing() if file_id.endswith(".png")}
