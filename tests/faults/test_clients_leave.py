"""Clients that go away in the middle of a request: a queued one is theirs to come back for, a direct one is not."""

import time
from urllib.parse import urlsplit

from tests.faults.site import PULID
from tests.faults.test_cancel import HEARD_S
from tests.wire import RUN
from tests.worker_process import eventually


def test_a_request_goes_on_when_the_client_of_its_stream_disconnects(site, scene):
    """row 38: while it waits, and while it runs."""
    request = site.run(scene, step=2)
    with site.stream(request) as events:
        assert next(events)["status"] == "IN_PROGRESS"
    waiting = site.submit()
    with site.stream(waiting) as events:
        assert next(events)["status"] in {"IN_QUEUE", "IN_PROGRESS"}
    scene.release()

    assert site.finish(request).status == 200
    assert site.finish(waiting).status == 200
    assert scene.steps == [0, 1, 2, 3, 4]


def test_a_request_goes_on_when_its_subscriber_disconnects_amid_a_poll(site, scene):
    """row 38: fal's `subscribe` is a submit and status polls; one is held when the client vanishes."""
    request = site.run(scene, step=2)
    url = urlsplit(request["status_url"])
    site.anna.status(request)
    connection = site.anna.connect()
    site.anna.send(connection, "GET", f"{url.path}?logs=1", host=url.netloc)
    connection.close()
    scene.release()

    assert site.finish(request).status == 200
    assert scene.runs == scene.runs[:1]


def test_a_request_goes_on_when_its_submitter_hangs_up_before_the_answer(site, scene):
    """row 38: what was sent whole is queued, once, whether or not anybody reads the answer."""
    connection = site.anna.connect()
    site.anna.send(connection, "POST", f"/{PULID}", site.portrait(scene))
    connection.close()
    scene.wait_for(step=4)
    site.check()

    assert len(scene.runs) == 1


def test_a_direct_run_whose_client_leaves_stops_at_its_next_step(site, scene):
    """row 37: the step that runs is its last, and the next request gets the device."""
    before = site.pictures()
    scene.hold(2)
    connection = site.anna.connect()
    site.anna.send(connection, "POST", f"/{PULID}", site.portrait(scene), host=RUN)
    scene.wait_for(step=2)
    [running] = [job for job in site.stored() if job.state == "IN_PROGRESS"]
    connection.close()
    eventually(lambda: site.queue.get(running.id).cancel_requested)
    time.sleep(HEARD_S)
    scene.release()
    eventually(lambda: site.queue.get(running.id).state == "COMPLETED")
    ended = site.queue.get(running.id)

    assert (ended.http_status, ended.error_type, ended.attempt) == (499, "client_cancelled", 1)
    assert scene.steps == [0, 1, 2]
    assert site.pictures() == before
    assert site.finish(site.submit()).status == 200
