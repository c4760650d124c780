"""What a GPU and its driver do to a run: nonsense for a picture, an error that stays, no answer at all."""

from collections.abc import Iterator

import psutil
import pytest

from tests.faults.site import FaultSite

JOB_TIMEOUT_S = 6


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, face_photo: str) -> Iterator[FaultSite]:
    """A job without a step for a few seconds is ended."""
    with FaultSite(tmp_path_factory.mktemp("site"), face_photo, job_timeout_s=JOB_TIMEOUT_S) as site:
        yield site


def test_a_picture_of_not_a_number_is_an_error_and_no_black_picture(site, scene):
    """row 14: and the worker goes on."""
    scene.fail("not a number")
    before = site.pictures()
    failed = site.finish(site.submit(scene))
    [worker] = site.workers()

    assert failed.status == 500
    assert failed.json["detail"][0]["type"] == "internal_server_error"
    assert failed.headers["x-fal-error-type"] == "internal_server_error"
    assert site.pictures() == before
    assert site.finish(site.submit()).status == 200
    assert site.workers() == [worker]


def test_a_device_that_is_lost_replaces_the_worker_and_runs_the_request_again(site, scene):
    """row 13: an error that every later CUDA call would repeat."""
    scene.fail("device lost")
    request = site.submit(scene)

    assert site.finish(request).status == 200
    assert site.job(request).attempt == 2
    assert len(set(scene.runs)) == 2
    assert not psutil.pid_exists(scene.runs[0])


def test_a_run_without_progress_is_ended_and_tried_again(site, scene):
    """row 15: the watchdog of steps."""
    scene.fail("hang")
    request = site.submit(scene)

    assert site.finish(request).status == 200
    assert site.job(request).attempt == 2
    assert scene.steps == [0, 1, 2, 0, 1, 2, 3, 4]
    assert not psutil.pid_exists(scene.runs[0])
