"""Cancelling, at every moment of a request's life, and the time-out that nobody has to ask for."""

import json
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults.scene import Scene
from tests.faults.site import PULID, FaultSite
from tests.wire_checks import assert_is_request_error
from tests.wire_receiver import Receiver
from tests.worker_process import eventually

HEARD_S = 1.0
"""Within this time a worker has heard of a cancellation, and waits for the end of its step."""
RACES, RACE_S = 12, 0.6
"""How often a request is cancelled about when it completes, and within which time after its last step began."""


def test_a_waiting_request_is_cancelled_and_never_runs(site, scene, other_scene):
    """row 31."""
    site.fill(scene)
    request = site.submit(other_scene)
    answer = site.anna.cancel(request)
    scene.release()

    assert (answer.status, answer.json) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert_is_request_error(site.finish(request), 499, "client_cancelled")
    assert other_scene.runs == []
    assert site.job(request).attempt == 0


def test_a_running_request_stops_at_its_next_step_and_the_next_one_begins(site, scene, other_scene):
    """row 32: the step that runs is its last."""
    request = site.run(scene, step=2)
    following = site.submit(other_scene)
    answer = site.anna.cancel(request)
    time.sleep(HEARD_S)
    scene.release()
    other_scene.wait_for(step=1)

    assert (answer.status, answer.json) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert scene.steps == [0, 1, 2]
    assert_is_request_error(site.finish(request), 499, "client_cancelled")
    assert site.finish(following).status == 200
    assert site.job(request).finished_at < site.job(following).finished_at


def test_cancelling_twice_changes_nothing(site, scene):
    """row 35: the second answer says the same while it runs, and that it is over once it is."""
    request = site.run(scene, step=2)
    answers = [site.anna.cancel(request) for _ in range(2)]
    scene.release()
    result = site.finish(request)
    late = site.anna.cancel(request)

    assert [(each.status, each.json["status"]) for each in answers] == [(202, "CANCELLATION_REQUESTED")] * 2
    assert (late.status, late.json) == (400, {"status": "ALREADY_COMPLETED"})
    assert site.anna.result(request).body == result.body


def test_a_cancellation_that_races_the_completion_leaves_exactly_one_end(site, tmp_path):
    """row 33: from before its last step's end to after its result is stored; one webhook tells of the same end."""
    before, ends = site.pictures(), {}
    with Receiver() as receiver, ThreadPoolExecutor(1) as pool:
        for race in range(RACES):
            scene = Scene.at(tmp_path / str(race))
            scene.hold(1)
            request = site.submit(scene, num_inference_steps=1, query=f"?fal_webhook={receiver.url}/")
            scene.wait_for(step=1)
            let_go = pool.submit(let_go_after, scene, HEARD_S if race == 0 else RACE_S / 2)
            time.sleep(race / RACES * RACE_S)
            ends[request["request_id"]] = cancelled_once(site, request)
            let_go.result()
        late = site.submit(query=f"?fal_webhook={receiver.url}/")
        site.finish(late)
        ends[late["request_id"]] = cancelled_once(site, late)
        eventually(lambda: len(receiver.received) >= len(ends))
        site.check()
        told = [json.loads(each.body) for each in receiver.received]
    print(f"{len(ends)} races: {Counter(ends.values())}")

    assert {(202, 499), (400, 200)} <= set(ends.values()) <= {(202, 499), (202, 200), (400, 200)}
    assert sorted(each["request_id"] for each in told) == sorted(ends), "each is told of once"
    assert all((each["status"] == "OK") == (ends[each["request_id"]][1] == 200) for each in told)
    assert site.pictures() - before == [status for _, status in ends.values()].count(200)


def let_go_after(scene: Scene, seconds: float) -> None:
    time.sleep(seconds)
    scene.release()


def cancelled_once(site: FaultSite, request: dict[str, Any]) -> tuple[int, int]:
    """The status of the cancellation and of the result, which another cancellation cannot change."""
    answer = site.anna.cancel(request)
    result = site.finish(request)
    again = site.anna.cancel(request)

    assert answer.json["status"] == {202: "CANCELLATION_REQUESTED", 400: "ALREADY_COMPLETED"}[answer.status]
    assert (again.status, again.json) == (400, {"status": "ALREADY_COMPLETED"})
    assert site.anna.result(request).body == result.body
    return answer.status, result.status


@pytest.mark.parametrize("unknown", [str(uuid.UUID(int=7, version=4)), "no-id"])
def test_an_unknown_request_cannot_be_cancelled(site, unknown):
    """row 35."""
    answer = site.anna.put(f"/{PULID}/requests/{unknown}/cancel")

    assert (answer.status, answer.json["status"]) == (404, "NOT_FOUND")


def test_a_request_that_could_not_start_in_time_is_over_and_never_runs(site, scene, other_scene):
    """row 36: 504 of the client's own time limit, which nobody need try again."""
    site.fill(scene)
    request = site.submit(other_scene, headers={"x_fal_request_timeout": "1"})
    result = site.finish(request)
    scene.release()

    assert_is_request_error(result, 504, "request_timeout")
    assert result.headers["x-fal-request-timeout-type"] == "user"
    assert result.headers["x-fal-retryable"] == "false"
    assert site.job(request).attempt == 0
    site.check()
    assert other_scene.runs == []
