"""A request that takes every worker down with it."""

import psutil

from tests.wire_checks import assert_is_request_error
from tests.worker_process import eventually

GOOD = 3


def test_a_request_that_crashes_every_worker_fails_alone(site, scene, other_scene):
    """row 9: SIGSEGV in each of its runs, each time while the worker holds a good request beside it."""
    scene.fail("crash", "crash")
    scene.hold(1)
    poison = site.submit(scene)
    scene.wait_for(step=1)
    others = [site.submit(seed=seed) for seed in range(GOOD)]
    assert site.taken(others[0])
    scene.release()
    eventually(lambda: not psutil.pid_exists(scene.runs[0]))
    scene.hold(1)
    scene.wait_for(step=1, times=2)
    site.taken(others[0])
    scene.release()

    assert_is_request_error(site.finish(poison), 503, "runner_disconnected")
    assert len(scene.runs) == len(set(scene.runs)) == 2
    for seed, other in enumerate(others):
        answer = site.finish(other)
        assert (answer.status, answer.json.get("seed")) == (200, seed)
