"""Every way a job can go, in a real worker process that knows only misbehaving pipelines."""

import io
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.exits import EXIT_CANNOT_LOAD
from server.queue.queue import Queue
from tests.pictures import data_uri, encoded, picture
from tests.pipelines.black_out import BLACK_OUT
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.pipelines.broken import BROKEN
from tests.pipelines.cannot_load import CANNOT_LOAD
from tests.pipelines.nobody_there import NOBODY_THERE
from tests.pipelines.tight import TIGHT
from tests.worker_process import PATIENCE_S, Site, eventually


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.queue.close()


@pytest.fixture(scope="module")
def busy_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker for all the tests after which it is still the same one."""
    site = Site(tmp_path_factory.mktemp("site"))
    with site.worker():
        yield site
    site.queue.close()


# Results


def test_a_job_becomes_a_picture(busy_site):
    job = busy_site.done(busy_site.put(BLUE_SQUARE, seed=5, steps=3))
    [image] = job.result["images"]
    stored = busy_site.files.stat(image["url"].removeprefix("file:"))
    pixels = np.asarray(Image.open(io.BytesIO(busy_site.files.read(stored.id))))

    assert (job.http_status, job.error_type, job.result["seed"]) == (200, None, 5)
    assert (pixels == (0, 0, 255)).all()
    assert image == {
        "url": f"file:{stored.id}",
        "content_type": "image/png",
        "file_name": stored.file_name,
        "file_size": stored.size,
        "width": 8,
        "height": 8,
    }
    assert job.inference_time > 0


def test_the_client_can_watch_the_steps(busy_site):
    job = busy_site.done(busy_site.put(BLUE_SQUARE, steps=3))
    assert busy_site.messages(job) == ["Preparing", "Generating", "Step 1/3", "Step 2/3", "Step 3/3", "Saving"]


def test_jobs_are_generated_in_order(busy_site, tmp_path):
    note = tmp_path / "note"
    jobs = [busy_site.put(BLUE_SQUARE, seed=seed, note=str(note)) for seed in range(8)]
    assert [busy_site.done(job).result["seed"] for job in jobs] == list(range(8))
    assert note.read_text().split() == [str(seed) for seed in range(8)]


def test_the_next_job_is_prepared_while_one_is_generated(busy_site):
    first, second = busy_site.put(BLUE_SQUARE, steps=40, step_s=0.05), busy_site.put(BLUE_SQUARE)
    eventually(lambda: busy_site.messages(second) == ["Preparing"])
    assert busy_site.queue.get(first.id).state == "IN_PROGRESS"
    assert busy_site.done(second).http_status == 200


def test_a_picture_of_the_request_is_fetched(busy_site):
    job = busy_site.done(busy_site.put(BLUE_SQUARE, image_url=data_uri(encoded(picture()))))
    assert job.http_status == 200


def test_a_picture_that_cannot_be_fetched_is_blamed_on_its_field(busy_site):
    job = busy_site.done(busy_site.put(BLUE_SQUARE, image_url="http://10.0.0.1/x.png"))
    assert (job.http_status, job.error_type) == (422, "file_download_error")
    assert job.result["detail"][0]["loc"] == ["body", "image_url"]


# Failures that concern the job alone


def test_no_face_is_reported_against_the_field_that_held_the_image(busy_site):
    job = busy_site.done(busy_site.put(NOBODY_THERE))
    assert (job.http_status, job.error_type) == (422, "face_detection_error")
    assert job.result["detail"][0]["loc"] == ["body", "image_url"]


def test_a_bug_is_answered_without_its_text(busy_site):
    job = busy_site.done(busy_site.put(BROKEN))
    assert (job.http_status, job.error_type) == (500, "internal_server_error")
    assert "secret" not in json.dumps(job.result)
    assert busy_site.done(busy_site.put(BLUE_SQUARE)).http_status == 200


def test_a_black_picture_is_an_error(busy_site):
    """row 14."""
    job = busy_site.done(busy_site.put(BLACK_OUT))
    assert (job.http_status, job.error_type) == (500, "internal_server_error")


def test_memory_that_suffices_on_the_second_try_is_no_error(busy_site):
    """row 11."""
    assert busy_site.done(busy_site.put(TIGHT)).http_status == 200


def test_a_prompt_is_not_in_the_workers_log(site):
    with site.worker() as worker:
        for endpoint in (BLUE_SQUARE, NOBODY_THERE, BROKEN):
            site.done(site.queue.put(endpoint.id, {"prompt": "my private wish"}, owner="me", base_url="http://h"))
        assert "job failed" in worker.log
        assert "private wish" not in worker.log


# Cancelling


def test_a_running_job_is_cancelled_within_a_step(busy_site):
    """row 32."""
    job = busy_site.running(busy_site.put(BLUE_SQUARE, steps=600, step_s=0.1))
    busy_site.queue.cancel(job.id, "me")
    began = time.monotonic()
    done = busy_site.done(job)
    assert (done.http_status, done.error_type) == (499, "client_cancelled")
    assert time.monotonic() - began < 5
    assert len(busy_site.messages(job)) < 100


def test_a_job_that_waits_for_the_busy_gpu_is_cancelled_and_never_generated(busy_site, tmp_path):
    first = busy_site.running(busy_site.put(BLUE_SQUARE, steps=40, step_s=0.05))
    second = busy_site.put(BLUE_SQUARE, note=str(tmp_path / "note"))
    eventually(lambda: busy_site.messages(second) == ["Preparing"])
    busy_site.queue.cancel(second.id, "me")
    assert busy_site.done(second).error_type == "client_cancelled"
    assert busy_site.done(first).http_status == 200
    assert not (tmp_path / "note").exists()


# The worker's end


def test_a_worker_killed_in_mid_job_costs_one_run_and_gives_one_result(site, tmp_path):
    """row 2."""
    note = tmp_path / "note"
    with site.worker() as first:
        job = site.running(site.put(BLUE_SQUARE, steps=100, step_s=0.05, note=str(note)))
        first.kill()
    with site.worker():
        eventually(site.queue.rescue)
        done = site.done(job)
    assert (done.http_status, done.attempt) == (200, 2)
    assert note.read_text() == "7\n7\n"
    assert len(list((site.folder / "files").rglob("*.png"))) == 1


def test_a_stopped_worker_that_wakes_up_too_late_changes_nothing(site):
    """row 8."""
    with site.worker() as sleeper:
        job = site.running(site.put(BLUE_SQUARE, steps=60, step_s=0.05, seed=3))
        sleeper.signal(signal.SIGSTOP)
        eventually(site.queue.rescue)
        with site.worker():
            done = site.done(job)
            sleeper.signal(signal.SIGCONT)
            eventually(lambda: "job lost" in sleeper.log or "result dropped" in sleeper.log)
    assert site.queue.get(job.id) == done
    assert done.attempt == 2


def test_sigterm_lets_the_running_job_finish(site):
    """row 7."""
    with site.worker() as worker:
        job = site.running(site.put(BLUE_SQUARE, steps=20, step_s=0.05))
        waiting = site.put(BLUE_SQUARE)
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0
    assert site.queue.get(job.id).http_status == 200
    assert site.queue.get(waiting.id).state == "IN_QUEUE"
    assert site.queue.workers() == []


def test_a_job_that_outlasts_the_drain_is_given_back_without_burning_an_attempt(tmp_path):
    """row 7."""
    site = Site(tmp_path, drain_s=0.3)
    with site.worker() as worker:
        job = site.running(site.put(BLUE_SQUARE, steps=1000, step_s=0.05))
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0
    assert site.queue.get(job.id).state == "IN_QUEUE"
    for _ in range(3):
        [claimed] = site.queue.claim("w", [BLUE_SQUARE.id])
        assert site.queue.get(job.id).state == "IN_PROGRESS", "max_attempts would be reached with the drained one"
        site.queue.rescue(worker="w")
    assert site.queue.get(claimed.id).error_type == "runner_disconnected"
    site.queue.close()


def test_a_model_that_cannot_be_loaded_is_told_to_the_operator(tmp_path):
    site = Site(tmp_path, catalog="tests.pipelines.cannot_load:CATALOG")
    with site.worker() as worker:
        job = site.put(CANNOT_LOAD)
        assert worker.ended() == EXIT_CANNOT_LOAD
    later = Queue(str(site.settings["database_url"]), lease_s=PATIENCE_S, max_attempts=3)
    [state] = later.workers()
    later.close()
    assert state.state == "failed"
    assert "unet.safetensors is missing" in state.message
    assert "unet.safetensors is missing" in worker.log
    assert "Traceback" not in worker.log
    assert site.queue.get(job.id).state == "IN_QUEUE"
    site.queue.close()


def test_a_worker_says_that_it_is_ready_only_when_it_is(tmp_path):
    site = Site(tmp_path, catalog="tests.pipelines.slow_to_load:CATALOG")
    with site.worker():
        [loading] = eventually(site.queue.workers)
        assert loading.state == "loading"
        eventually(site.ready)
    site.queue.close()


def test_a_worker_that_is_still_loading_leaves_at_once(tmp_path):
    site = Site(tmp_path, catalog="tests.pipelines.slow_to_load:CATALOG")
    with site.worker() as worker:
        eventually(site.queue.workers)
        worker.signal(signal.SIGTERM)
        assert worker.ended(0.9) == 0
    assert site.queue.workers() == []
    site.queue.close()
