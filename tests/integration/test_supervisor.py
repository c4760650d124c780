"""Workers are kept alive and their jobs rescued: whatever is killed, an acknowledged request gets its one result."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from server.exits import EXIT_CANNOT_START, meaning
from server.settings import Settings
from server.supervisor.supervisor import DeviceError, Place, places_of, supervise
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.pipelines.exits import EXITS
from tests.server_process import ServerProcess
from tests.worker_process import Site, eventually

TWO = (Place("test:0"), Place("test:1"))
CHARACTERS = "tests.pipelines.catalog:CATALOG"


@contextmanager
def supervised(site: Site, places: Sequence[Place] = (Place("test:0"),)) -> Iterator[None]:
    """A supervisor in this process, its workers in their own."""
    settings = Settings(data_dir=site.folder, weights="tiny", **site.settings)
    stop = threading.Event()
    thread = threading.Thread(target=supervise, args=(settings, site.queue, places, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.queue.close()


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "server.worker" in child.cmdline()]


def test_a_killed_worker_is_replaced_and_its_job_run_again_without_waiting_for_the_lease(site):
    with supervised(site):
        job = site.running(site.put(BLUE_SQUARE, steps=60, step_s=0.05))
        [worker] = workers_of(psutil.Process())
        worker.kill()
        eventually(lambda: site.queue.get(job.id).state == "IN_QUEUE", limit_s=1.5)
        done = site.done(job)
    assert (done.http_status, done.attempt) == (200, 2)


def test_a_worker_that_stands_still_is_killed_and_its_job_run_again(tmp_path):
    """Its lease gives the job away; but the GPU, and the place, would be lost as long as the process is there."""
    site = Site(tmp_path, lease_s=1.2, heartbeat_s=0.2)
    with supervised(site):
        eventually(site.ready)
        job = site.running(site.put(BLUE_SQUARE, steps=60, step_s=0.02))
        time.sleep(0.5)  # two looks: it was seen ready
        [worker] = workers_of(psutil.Process())
        worker.send_signal(signal.SIGSTOP)
        done = site.done(job)
        assert not worker.is_running()
    assert (done.http_status, done.attempt) == (200, 2)
    site.queue.close()


def test_a_worker_that_cannot_be_started_is_said_to_be_and_tried_again(site):
    """Linux takes no environment variable of 128 KiB."""
    with supervised(site, [Place("test:0", {"TOO_LONG": "x" * 200_000})]):
        why = meaning(EXIT_CANNOT_START)
        eventually(lambda: any(why in one.message and one.state == "failed" for one in site.queue.workers()))
        eventually(lambda: restarts(site) > 1)


def restarts(site: Site) -> float:
    """How often a worker of the only place was started again, as it is published."""
    families = [family for measure in site.queue.measures.every() for family in measure.samples]
    samples = [sample for family in families for sample in family["samples"]]
    return max((value for name, _, value in samples if name == "veraicon_worker_restarts_total"), default=0)


def test_a_fleet_on_postgresql_survives_a_killed_worker_too(tmp_path, postgresql):
    site = Site(tmp_path, database_url=postgresql.new_database())
    with supervised(site, TWO):
        jobs = [site.put(BLUE_SQUARE, steps=40, step_s=0.05, seed=seed) for seed in range(4)]
        holder = site.running(jobs[0]).worker
        next(worker for worker in workers_of(psutil.Process()) if holder in worker.cmdline()).kill()
        done = [site.done(job) for job in jobs]
    assert [job.result["seed"] for job in done] == [0, 1, 2, 3]
    assert max(job.attempt for job in done) == 2
    site.queue.close()


def test_a_job_that_kills_every_worker_ends_and_the_others_do_not_suffer(site):
    with supervised(site):
        poison, good = site.put(EXITS), site.put(BLUE_SQUARE)
        assert site.done(poison).error_type == "runner_disconnected"
        assert site.done(good).http_status == 200
    assert site.queue.get(poison.id).attempt == 3


def test_several_workers_share_the_jobs(site):
    with supervised(site, TWO):
        eventually(lambda: len([worker for worker in site.queue.workers() if worker.state == "ready"]) == 2)
        time.sleep(1)  # two heartbeats: each has seen the other
        jobs = [site.put(BLUE_SQUARE, steps=20, step_s=0.05) for _ in range(6)]
        assert {site.done(job).worker.rpartition(":")[0] for job in jobs} == {"test:0", "test:1"}


def test_while_a_model_cannot_be_loaded_the_roster_says_why(tmp_path):
    site = Site(tmp_path, catalog="tests.pipelines.cannot_load:CATALOG", lease_s=30)
    with supervised(site):
        eventually(lambda: any("unet.safetensors" in worker.message for worker in site.queue.workers()))
        for _ in range(20):
            states = [(worker.state, worker.message) for worker in site.queue.workers()]
            assert states, "the reason must not fade while there is no worker"
            time.sleep(0.1)
    assert site.queue.workers() == []
    site.queue.close()


def test_stopping_ends_every_worker_and_gives_the_jobs_back(tmp_path):
    site = Site(tmp_path, drain_s=0.3)
    with supervised(site):
        job = site.running(site.put(BLUE_SQUARE, steps=1000, step_s=0.05))
    assert site.queue.get(job.id).state == "IN_QUEUE"
    assert workers_of(psutil.Process()) == []
    site.queue.close()


def test_a_worker_does_not_outlive_its_supervisor(tmp_path):
    server = ServerProcess(tmp_path, "worker", catalog=CHARACTERS)
    server.start()
    try:
        [worker] = eventually(lambda: workers_of(psutil.Process(server.process.pid)))
        server.process.kill()
        server.process.wait()
        worker.wait(30)
    finally:
        server.kill()
    assert not worker.is_running()


@pytest.mark.parametrize("moment", ["queued", "running"])
def test_after_everything_was_killed_an_acknowledged_request_still_gets_its_one_result(tmp_path, moment):
    settings = {"catalog": CHARACTERS, "lease_s": 2, "heartbeat_s": 0.4}
    note = tmp_path / "note"
    body = {"prompt": "x", "note": str(note), "steps": 20, "step_s": 0.05, "seed": 11}
    with ServerProcess(tmp_path, **settings) as server:
        ahead = server.wire.submit(BLUE_SQUARE.id, body | {"steps": 1000, "note": None}) if moment == "queued" else None
        request = server.wire.submit(BLUE_SQUARE.id, body)
        if moment == "running":
            eventually(note.exists)
        server.kill()
    with ServerProcess(tmp_path, **settings) as server:
        if ahead:
            server.wire.put(f"/test/blue-square/requests/{ahead['request_id']}/cancel")
        server.wire.wait_for(request, "COMPLETED")
        answer = server.wire.get(f"/test/blue-square/requests/{request['request_id']}")
    assert (answer.status, answer.json["seed"]) == (200, 11)
    assert note.read_text().split() == ["11"] * (2 if moment == "running" else 1)


def test_cuda_is_never_replaced_by_the_cpu(tmp_path):
    with pytest.raises(DeviceError, match="tiny"):
        places_of(Settings(data_dir=tmp_path, device="cuda"))


GPUS = {"gpus": [{"index": 0, "uuid": "GPU-aaaa"}, {"index": 1, "uuid": "GPU-bbbb"}]}


def test_each_gpu_has_a_worker_that_sees_no_other(tmp_path):
    settings = Settings(data_dir=tmp_path, device="cuda", worker_name="studio")
    places = places_of(settings, lambda: GPUS)
    assert places == [
        Place("studio:0", {"CUDA_VISIBLE_DEVICES": "GPU-aaaa"}),
        Place("studio:1", {"CUDA_VISIBLE_DEVICES": "GPU-bbbb"}),
    ]
    assert places_of(settings.model_copy(update={"workers": 1}), lambda: GPUS) == places[:1]
    with pytest.raises(DeviceError, match="3 GPUs"):
        places_of(settings.model_copy(update={"workers": 3}), lambda: GPUS)


def test_one_worker_runs_on_the_cpu_unless_more_are_asked_for(tmp_path):
    assert len(places_of(Settings(data_dir=tmp_path, weights="tiny"))) == 1
    assert len(places_of(Settings(data_dir=tmp_path, weights="tiny", workers=3))) == 3
