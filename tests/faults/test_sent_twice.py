"""A client that sends a submit twice, because it lost the answer: its own name for it keeps it one request."""

from concurrent.futures import ThreadPoolExecutor

from tests.faults.site import PULID
from tests.wire_checks import assert_is_request_error

AT_ONCE = 8


def test_the_same_submit_again_is_the_same_request_and_is_made_once(site, scene):
    """row 40: many at once, while it runs, and when it is done."""
    scene.hold(2)
    body, key = site.portrait(scene), {"Idempotency-Key": "once"}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: site.anna.post(f"/{PULID}", body, headers=key), range(AT_ONCE)))
    scene.wait_for(step=2)
    answers.append(site.anna.post(f"/{PULID}", dict(reversed(body.items())), headers=key))
    scene.release()
    result = site.finish(answers[0].json)
    answers.append(site.anna.post(f"/{PULID}", body, headers=key))

    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["request_id"] for answer in answers}) == 1
    assert result.status == 200
    assert scene.steps == [0, 1, 2, 3, 4]


def test_the_same_key_with_another_body_is_refused_and_changes_nothing(site, scene, other_scene):
    """row 41: 422 that names the first request, which goes on; to another user the key is as good as new."""
    scene.hold(2)
    key = {"Idempotency-Key": "taken"}
    first = site.submit(scene, headers=key)
    scene.wait_for(step=2)
    refused = site.anna.post(f"/{PULID}", site.portrait(other_scene), headers=key)
    bens = site.ben.post(f"/{PULID}", site.portrait(), headers=key)
    scene.release()

    assert_is_request_error(refused, 422, "idempotency_key_reused")
    assert first["request_id"] in refused.json["detail"]
    assert site.finish(first).status == 200
    assert site.ben.finish(bens.json).status == 200
    assert bens.json["request_id"] != first["request_id"]
    assert other_scene.runs == []
