"""Requests that are generated together, in a real worker process: which, when, and what one does to the others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.exits import EXIT_TOO_LARGE
from tests.databases import PostgreSQL
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.pipelines.deadly import DEADLY
from tests.pipelines.narrow import NARROW
from tests.pipelines.out_of_memory import OUT_OF_MEMORY
from tests.pipelines.poisonous import POISONOUS
from tests.worker_process import Site, eventually

SETTINGS = {"catalog": "tests.pipelines.published:CATALOG", "max_batch": 4, "batch_wait_ms": 1000}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker that makes batches of four, for all the tests after which it is still the same one."""
    site = Site(tmp_path_factory.mktemp("site"), **SETTINGS)
    with site.worker():
        yield site
    site.queue.close()


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where the characters write who was generated together."""
    return tmp_path / "note"


def batches(note: Path) -> list[str]:
    return note.read_text().splitlines()


def put(site: Site, endpoint, note: Path, *seeds: int, **wish):
    return [site.put(endpoint, seed=seed, note=str(note), **{"kind": "a", **wish}) for seed in seeds]


# Who is generated together


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_a_busy_worker_takes_those_that_are_alike_together(store, site, tmp_path, note, request):
    if store == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        site = Site(tmp_path, **SETTINGS, database_url=server.new_database())
        request.addfinalizer(site.queue.close)
        worker = site.worker()
        request.addfinalizer(worker.kill)
    with site.busy(tmp_path / "gate"):
        jobs = put(site, BLUE_SQUARE, note, 1, 2, 3, 4, 5)
        site.prepared(*jobs[:4])
    assert [site.done(job).result["seed"] for job in jobs] == [1, 2, 3, 4, 5]
    assert batches(note) == ["1 2 3 4", "5"]


def test_those_that_differ_and_those_that_do_not_say_are_generated_alone(site, tmp_path, note):
    with site.busy(tmp_path / "gate"):
        kinds = ["a", "b", "a", ""]
        jobs = [put(site, BLUE_SQUARE, note, seed, kind=kind)[0] for seed, kind in enumerate(kinds)]
        site.prepared(*jobs)
    jobs += put(site, BLUE_SQUARE, note, 4, kind="")
    assert all(site.done(job).http_status == 200 for job in jobs)
    assert batches(note) == ["0 2", "1", "3", "4"]


def test_the_device_waits_a_little_for_one_that_is_almost_ready(site, tmp_path, note):
    with site.busy(tmp_path / "gate"):
        jobs = put(site, BLUE_SQUARE, note, 1) + put(site, BLUE_SQUARE, note, 2, prepare_s=0.6)
        site.prepared(*jobs)
    assert all(site.done(job).http_status == 200 for job in jobs)
    assert batches(note) == ["1 2"]


def test_an_idle_worker_holds_nobody_up(site, note):
    [job] = put(site, BLUE_SQUARE, note, 1)
    site.done(job)
    begin, generating = (line.timestamp for line in site.queue.logs(job.id)[:2])
    assert generating - begin < SETTINGS["batch_wait_ms"] / 1000


# What one does to the others


def test_a_cancelled_member_is_told_at_once_and_the_others_get_their_pictures(site, tmp_path, note):
    """row 34: its rows are computed along, so that nothing changes for the others."""
    with site.busy(tmp_path / "gate"):
        jobs = put(site, BLUE_SQUARE, note, 1, 2, 3, steps=60, step_s=0.05)
        site.prepared(*jobs)
    site.running(jobs[1])
    site.queue.cancel(jobs[1].id, "me")
    assert site.done(jobs[1]).error_type == "client_cancelled"
    assert [site.queue.get(job.id).state for job in (jobs[0], jobs[2])] == ["IN_PROGRESS"] * 2
    assert [site.done(job).http_status for job in jobs] == [200, 499, 200]
    assert batches(note) == ["1 2 3"]


def test_a_batch_that_nobody_wants_any_more_stops_after_its_step(site, tmp_path, note):
    """row 32: all members are cancelled."""
    with site.busy(tmp_path / "gate"):
        jobs = put(site, BLUE_SQUARE, note, 1, 2, steps=1000, step_s=0.05)
        site.prepared(*jobs)
    site.running(jobs[0])
    for job in jobs:
        site.queue.cancel(job.id, "me")
    assert [site.done(job).error_type for job in jobs] == ["client_cancelled"] * 2
    assert site.done(put(site, BLUE_SQUARE, note, 3)[0], 20).http_status == 200, "the device is free long before 50 s"


def test_one_that_does_not_work_fails_alone(site, tmp_path, note):
    """row 10: the batch is taken apart, three succeed."""
    with site.busy(tmp_path / "gate"):
        jobs = put(site, POISONOUS, note, 1, 13, 2, 3)
        site.prepared(*jobs)
    assert [site.done(job).http_status for job in jobs] == [200, 500, 200, 200]
    assert batches(note) == ["1 13 2 3", "1", "13", "2", "3"]


def test_one_that_takes_its_process_down_takes_its_neighbours_down_once(tmp_path, note):
    """row 10: those that were in hand when a worker died are run alone, the deadly one until max_attempts."""
    site = Site(tmp_path, **SETTINGS)
    with site.worker() as worker:
        with site.busy(tmp_path / "gate"):
            jobs = put(site, DEADLY, note, 1, 13, 2)
            site.prepared(*jobs)
        assert worker.ended() == 139
    for _ in range(2):
        assert site.queue.rescue(worker.id)
        with site.worker() as worker:
            assert worker.ended() == 139
    site.queue.rescue(worker.id)
    with site.worker():
        done = [site.done(job) for job in jobs]
    assert [job.error_type for job in done] == [None, "runner_disconnected", None]
    assert batches(note)[0] == "1 13 2"
    assert sorted(batches(note)[1:]) == ["1", "13", "13", "2"]
    assert [job.attempt for job in done] == [2, 3, 2], "the others have lost no more than the first one"
    site.queue.close()


# Memory


def test_a_batch_that_does_not_fit_is_halved_and_never_tried_so_again(site, tmp_path, note):
    """row 11: freed memory first, then a smaller batch; nobody notices but the log."""
    with site.busy(tmp_path / "gate"):
        jobs = put(site, NARROW, note, 1, 2, 3, 4)
        site.prepared(*jobs)
    assert [site.done(job).http_status for job in jobs] == [200] * 4
    assert batches(note) == ["1 2 3 4", "1 2 3 4", "1 2", "3 4"]
    with site.busy(tmp_path / "second-gate"):
        more = put(site, NARROW, note, 5, 6, 7, 8)
        site.prepared(*more)
    assert [site.done(job).http_status for job in more] == [200] * 4
    assert batches(note)[4:] == ["5 6", "7 8"]


def test_one_that_never_fits_fails_alone_and_the_process_is_replaced(tmp_path, note):
    """row 12: every rung of the ladder, then an error that says what to do; what waited is given back unharmed."""
    site = Site(tmp_path, **SETTINGS)
    with site.worker() as worker:
        with site.busy(tmp_path / "gate"):
            jobs = put(site, OUT_OF_MEMORY, note, 1, 2)
            waiting = put(site, BLUE_SQUARE, note, 3)
            site.prepared(*jobs, *waiting)
        assert worker.ended() == EXIT_TOO_LARGE
    done = [site.queue.get(job.id) for job in jobs]
    assert {(job.http_status, job.error_type) for job in done} == {(500, "runner_server_error")}
    assert all("ask for a smaller picture" in job.result["detail"] for job in done)
    assert batches(note) == ["1 2", "1 2", "1", "1", "2", "2"]
    assert site.queue.get(waiting[0].id).state == "IN_QUEUE"
    site.queue.close()


def test_what_was_done_is_published(site, tmp_path, note):
    with site.busy(tmp_path / "gate"):
        jobs = put(site, BLUE_SQUARE, note, 1, 2)
        site.prepared(*jobs)
    for job in jobs:
        site.done(job)

    def told() -> set[str]:
        return {
            name
            for measure in site.queue.measures.every()
            for family in measure.samples
            for name, labels, value in family["samples"]
            if value and labels.get("le", "+Inf") == "+Inf"
        }

    expected = {
        "veraicon_submit_to_start_seconds_count",
        "veraicon_stage_seconds_count",
        "veraicon_gpu_gap_seconds_count",
        "veraicon_batch_size_sum",
        "veraicon_out_of_memory_total",
        "veraicon_worker_memory_bytes",
        "veraicon_jobs_finished_total",
    }
    eventually(lambda: expected <= told())
