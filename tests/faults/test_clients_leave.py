"""Clients that go away in the middle of a request that is queued: it is theirs to come back for."""

from urllib.parse import urlsplit

from tests.faults.site import PULID


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
