"""Four requests that are generated together: what one of them does to the others, and too little memory for them."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.scene import Scene
from tests.faults.site import FaultSite
from tests.wire_checks import assert_is_request_error
from tests.worker_process import eventually

SEEDS = range(4)
POISON = 1
ENDS = {"bug": (500, "internal_server_error", 1), "crash": (503, "runner_disconnected", 2)}
"""Per poison: status and error type of the one that has it, and how many tries it costs everybody."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, face_photo: str) -> Iterator[FaultSite]:
    """The device waits for those of a batch that are almost ready."""
    folder = tmp_path_factory.mktemp("site")
    with FaultSite(folder, face_photo, max_batch=4, batch_wait_ms=1000, max_attempts=2) as site:
        yield site


def together(site: FaultSite, busy: Scene, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Requests that came while the device was busy, which it is no longer."""
    site.run(busy, step=1)
    requests = [site.submit(**input) for input in inputs]
    eventually(lambda: all("Preparing" in site.messages(request) for request in requests))
    busy.release()
    return requests


def were_together(site: FaultSite, requests: list[dict[str, Any]]) -> bool:
    lines = [line for line in site.server.log.splitlines() if "generated together" in line]
    return any(all(request["request_id"] in line for request in requests) for line in lines)


def pictures(site: FaultSite, requests: list[dict[str, Any]]) -> list[bytes]:
    """The PNG files."""
    results = [site.finish(request) for request in requests]
    assert [result.status for result in results] == [200] * len(requests)
    return [site.anna.follow(result.json["images"][0]["url"]).body for result in results]


@pytest.mark.parametrize("poison", ENDS)
def test_one_that_does_not_work_takes_the_batch_apart_and_fails_alone(site, scene, other_scene, poison):
    """row 9, row 10: by an error, or SIGSEGV in each run; the others, one taken ahead too, lose no more than it."""
    status, error_type, tries = ENDS[poison]
    scene.fail(poison, poison)
    scene.hold(1)
    batch = together(site, other_scene, [{"seed": seed, "scene": scene if seed == POISON else None} for seed in SEEDS])
    scene.wait_for(step=1)
    beside = site.submit(seed=len(SEEDS))
    assert site.taken(beside)
    scene.release()
    good = [*batch[:POISON], *batch[POISON + 1 :], beside]
    results = [site.finish(request) for request in good]
    failed = site.finish(batch[POISON])

    assert were_together(site, batch)
    assert [result.status for result in results] == [200] * 4
    assert [result.json["seed"] for result in results] == [0, 2, 3, 4]
    assert (failed.status, failed.headers["x-fal-error-type"]) == (status, error_type)
    assert [site.tries(request) for request in (*batch, beside)] == [tries] * 5
    assert len(scene.runs) == 2
    assert len(set(scene.runs)) == tries


def test_one_that_is_cancelled_changes_no_bit_of_the_others(site, scene, other_scene):
    """row 34: against the same batch, of which nobody is cancelled."""
    inputs = [{"seed": seed, "scene": scene} for seed in SEEDS]
    whole = together(site, other_scene, inputs)
    expected = pictures(site, whole)
    scene.hold(2)
    requests = together(site, other_scene, inputs)
    scene.wait_for(step=2, times=2)
    cancelled = requests.pop(POISON)
    answer = site.anna.cancel(cancelled)
    told = site.finish(cancelled)
    others = [site.job(request).state for request in requests]
    scene.release()
    made = pictures(site, requests)

    assert were_together(site, whole)
    assert were_together(site, [cancelled, *requests])
    assert answer.status == 202
    assert_is_request_error(told, 499, "client_cancelled")
    assert others == ["IN_PROGRESS"] * 3, "it is told at once, and not when they are done"
    assert len(set(expected)) == len(SEEDS)
    assert made == [picture for seed, picture in enumerate(expected) if seed != POISON]
    assert scene.steps == [0, 1, 2, 3, 4] * 2


def test_memory_that_suffices_on_the_second_try_is_no_error(site, scene):
    """row 11: of one request alone; nobody notices, and the process stays."""
    scene.fail("out of memory")
    [worker] = site.workers()
    request = site.submit(scene)

    assert site.finish(request).status == 200
    assert site.job(request).attempt == 1
    assert scene.runs == [worker.pid] * 2
    assert scene.steps == [0, 1, 2, 0, 1, 2, 3, 4]
    assert site.workers() == [worker]


def test_a_batch_that_does_not_fit_is_generated_in_halves(site, scene, other_scene):
    """row 11: freed memory first, then smaller batches, in the same process; three steps, so as to be of a kind."""
    scene.fail("out of memory", "out of memory")
    [worker] = site.workers()
    inputs = [{"seed": seed, "num_inference_steps": 3, "scene": scene} for seed in SEEDS]
    requests = together(site, other_scene, inputs)

    assert [site.finish(request).status for request in requests] == [200] * 4
    assert were_together(site, requests)
    assert [site.job(request).attempt for request in requests] == [1] * 4
    assert scene.runs == [worker.pid] * 4, "twice as they are, then two and two"
    assert scene.steps == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3]


def test_memory_that_never_suffices_is_a_clear_error_and_the_worker_is_replaced(site, scene, other_scene):
    """row 12: one more try; the one that waited beside it gets its picture from the next process."""
    scene.fail("out of memory", "out of memory")
    scene.hold(1)
    failing = site.submit(scene)
    scene.wait_for(step=1)
    waiting = site.submit(other_scene)
    scene.release()
    failed = site.finish(failing)

    assert_is_request_error(failed, 500, "runner_server_error")
    assert "memory" in failed.json["detail"]
    assert "ask for a smaller picture" in failed.json["detail"]
    assert len(scene.runs) == 2
    assert len(set(scene.runs)) == 1
    assert site.finish(waiting).status == 200
    assert set(other_scene.runs).isdisjoint(scene.runs)
    assert site.tries(waiting) == 1
