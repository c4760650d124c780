"""What ends a worker's process: jobs that say something about it or its device, and what becomes of the other jobs."""

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.exits import EXIT_RECYCLE, EXIT_REFRESH, EXIT_STUCK, EXIT_TOO_LARGE, EXIT_UNFORESEEN
from tests.pipelines.black_out import BLACK_OUT
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.pipelines.broken import BROKEN
from tests.pipelines.exits import EXITS
from tests.pipelines.gives_less import GIVES_LESS
from tests.pipelines.hangs import HANGS
from tests.pipelines.hoards import HOARDS
from tests.pipelines.loses_device import LOSES_DEVICE
from tests.pipelines.out_of_memory import OUT_OF_MEMORY
from tests.worker_process import Site, eventually


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.queue.close()


def test_a_device_that_is_too_small_is_said_to_be_and_the_process_is_replaced(site):
    """row 12."""
    with site.worker() as worker:
        job = site.done(site.put(OUT_OF_MEMORY))
        assert worker.ended() == EXIT_TOO_LARGE
    assert (job.http_status, job.error_type) == (500, "runner_server_error")
    assert "memory" in job.result["detail"]


def test_a_lost_device_is_no_answer_but_a_new_process(site, tmp_path):
    """row 13."""
    with site.worker() as worker:
        job = site.put(LOSES_DEVICE, note=str(tmp_path / "note"))
        assert worker.ended() == EXIT_RECYCLE
    assert site.queue.rescue(worker.id) == 1
    with site.worker():
        assert (site.done(job).http_status, site.done(job).attempt) == (200, 2)


def test_a_process_whose_memory_grows_is_replaced_between_two_jobs(tmp_path):
    """row 16: what it had taken ahead is given back, and every job gets its picture."""
    site = Site(tmp_path, recycle_rss_gb=0.1)
    jobs = [site.put(HOARDS, seed=seed) for seed in range(20)]
    with site.worker() as worker:
        assert worker.ended() == EXIT_REFRESH
        assert "memory grew by" in worker.log
        assert "recycle_rss_gb" in worker.log
    finished = site.queue.census.take().states["COMPLETED"]
    assert 8 < finished < 20
    assert site.queue.census.take().states["IN_PROGRESS"] == 0
    with site.worker():
        assert [site.done(job).http_status for job in jobs] == [200] * 20
    site.queue.close()


@pytest.mark.parametrize(("endpoint", "exit_code"), [(BROKEN, EXIT_UNFORESEEN), (BLACK_OUT, EXIT_RECYCLE)])
def test_bugs_in_a_row_replace_the_process_and_nonsense_for_pictures_blames_the_device(site, endpoint, exit_code):
    with site.worker() as worker:
        jobs = [site.put(endpoint) for _ in range(3)]
        assert [site.done(job).http_status for job in jobs] == [500, 500, 500]
        assert worker.ended() == exit_code


def test_a_job_that_breaks_the_devices_thread_burns_an_attempt_and_the_ones_beside_it_do_not(site, tmp_path):
    with site.worker() as worker:
        poison = site.put(GIVES_LESS, steps=20, step_s=0.05)
        beside = site.put(BLUE_SQUARE)
        site.prepared(poison, beside)
        assert worker.ended() == EXIT_RECYCLE
    assert site.queue.rescue(worker.id) == 1
    assert (site.queue.get(poison.id).attempt, site.queue.get(poison.id).spared) == (1, 0)
    assert (site.queue.get(beside.id).attempt, site.queue.get(beside.id).spared) == (1, 1)


def test_a_process_whose_main_thread_breaks_ends_and_lets_its_device_go(site):
    """No file can be opened any more, while the device's thread waits for jobs."""
    with site.worker() as worker:
        eventually(site.ready)
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (0, 0))
        assert worker.ended(20) == EXIT_RECYCLE
        assert "the worker's main thread broke" in worker.log


def test_a_worker_may_open_as_many_files_as_the_system_lets_it(site):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with site.worker() as worker:
            eventually(site.ready)
            assert psutil.Process(worker.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_hanging_job_ends_its_process_and_not_the_one_that_waits(tmp_path):
    """row 15."""
    site = Site(tmp_path, job_timeout_s=1)
    with site.worker() as worker:
        job = site.put(HANGS, note=str(tmp_path / "note"))
        eventually((tmp_path / "note").exists)
        waiting = site.put(BLUE_SQUARE)
        assert worker.ended() == EXIT_STUCK
    assert site.queue.get(waiting.id).state == "IN_QUEUE"
    assert site.queue.rescue(worker.id) == 1
    with site.worker():
        assert site.done(job).attempt == 2
    site.queue.close()


def test_a_crash_in_native_code_is_only_a_dead_worker(site):
    with site.worker() as worker:
        site.put(EXITS)
        assert worker.ended() == 139
