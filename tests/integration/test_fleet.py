"""A fleet of tiny PuLID: two APIs and two workers on a real PostgreSQL and a real S3 endpoint; any dies at any time."""

import io
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from PIL import Image

from tests.conftest import as_data_uri
from tests.faults.scene import Scene
from tests.fleet import Fleet, patiently, shared_services
from tests.integration.test_wire_webhooks import JWKS, verify
from tests.server_process import ROOT, ServerProcess
from tests.wire_receiver import Receiver
from tests.worker_process import eventually

PULID = "fal-ai/pulid"
PHOTO = ROOT / "pipelines" / "selftest.jpg"
FAULTY = "tests.pipelines.faulty:CATALOG"
SETTLED_S = 20.0
OWN = {"queue.db", "files", "queue.wakeup"}
"""What a host of its own keeps in its data folder, and a fleet's host does not."""


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    with shared_services(tmp_path_factory.mktemp("services")) as both:
        yield both


@pytest.fixture(scope="module")
def fleet(services, tmp_path_factory) -> Iterator[Fleet]:
    """All four start at once on an empty database, so that each may be the one that makes the tables."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), *services, catalog=FAULTY, max_side_px=256)
    try:
        for command, name in (("worker", "w1"), ("api", "a1"), ("worker", "w2"), ("api", "a2")):
            fleet.host(command, name)
        fleet.wait_until_ready(fleet.hosts[1], workers=2)
        yield fleet
    finally:
        fleet.close()


@pytest.fixture
def apis(fleet) -> tuple[ServerProcess, ServerProcess]:
    return fleet.hosts[1], fleet.hosts[3]


@pytest.fixture
def workers(fleet) -> tuple[ServerProcess, ServerProcess]:
    return fleet.hosts[0], fleet.hosts[2]


@pytest.fixture(scope="session")
def portrait() -> dict[str, Any]:
    """A small request."""
    photo, size = as_data_uri(PHOTO.read_bytes(), "image/jpeg"), {"width": 256, "height": 256}
    return {"reference_images": [{"image_url": photo}], "prompt": "portrait", "image_size": size, "seed": 1}


@pytest.fixture
def scene(tmp_path) -> Iterator[Scene]:
    scene = Scene.at(tmp_path / "scene")
    yield scene
    scene.release()


@pytest.fixture(autouse=True)
def consistent(fleet):
    """After each test nothing is lost, doubled or left over."""
    yield
    limit = time.monotonic() + SETTLED_S
    while found := fleet.contradictions():
        assert time.monotonic() < limit, found
        time.sleep(0.2)


def test_hosts_that_start_at_once_make_the_tables_once(fleet):
    assert len(fleet.sql("SELECT version_num FROM alembic_version")) == 1
    assert all("Traceback" not in host.log for host in fleet.hosts)


def test_what_one_host_was_given_the_other_answers_for(fleet, apis, portrait):
    """Submit, status, result, stream and file, each on another host than the one before; nothing lies on either."""
    here, there = (api.wire for api in apis)
    request = here.submit(PULID, portrait)
    result = there.finish(request)
    [image] = result.json["images"]

    assert result.status == 200
    assert here.result(request).body == result.body
    assert here.follow(image["url"]).body == there.follow(image["url"]).body
    assert Image.open(io.BytesIO(here.follow(image["url"]).body)).size == (256, 256)
    assert b"COMPLETED" in there.follow(request["status_url"] + "/stream").body
    assert all(OWN.isdisjoint(entry.name for entry in host.data_dir.iterdir()) for host in fleet.hosts)


def test_an_upload_begun_on_one_host_is_used_by_the_workers_of_others(apis, portrait):
    """The ticket of one host is good on the other: they sign with one secret, which is in the database."""
    here, there = (api.wire for api in apis)
    named = {"content_type": "image/jpeg", "file_name": "face.jpg"}
    begun = here.post("/storage/upload/initiate", named, host="rest.fal.ai").json
    sent = there.follow(begun["upload_url"], "PUT", body=PHOTO.read_bytes())
    body = portrait | {"reference_images": [{"image_url": begun["file_url"]}]}
    results = [wire.finish(wire.submit(PULID, body | {"seed": seed})) for seed, wire in enumerate((here, there) * 2)]

    assert sent.status == 200
    assert [result.status for result in results] == [200] * 4


def test_webhooks_of_all_hosts_are_signed_with_one_key(apis, portrait):
    """Whichever host sends them: what any host publishes verifies them; each request is told under one id."""
    with Receiver() as receiver:
        query = f"?fal_webhook={receiver.url}"
        requests = [api.wire.submit(PULID, portrait, query=query) for api in apis for _ in range(3)]
        eventually(lambda: len({json.loads(each.body)["request_id"] for each in receiver.received}) == len(requests))
    published = [api.wire.get(JWKS, host="rest.fal.ai").json for api in apis]

    assert published[0] == published[1]
    assert len({verify(each, published[0]) for each in receiver.received}) == 1
    assert {json.loads(each.body)["request_id"] for each in receiver.received} == {
        request["request_id"] for request in requests
    }


def test_a_host_that_dies_leaves_its_requests_to_the_others(fleet, apis, portrait):
    """kill -9 of a whole API host: what it acknowledged is answered elsewhere, and it comes back with nothing lost."""
    here, there = apis
    requests = [here.wire.submit(PULID, portrait | {"seed": seed}) for seed in range(5)]
    here.kill()
    results = [there.wire.finish(request) for request in requests]
    here.start()
    here.wait_until_ready()

    assert [result.json["seed"] for result in results] == list(range(5))
    assert [here.wire.result(request).body for request in requests] == [result.body for result in results]


def test_a_worker_host_that_dies_is_replaced_by_another(fleet, apis, workers, scene, portrait):
    """kill -9 of supervisor and worker: nobody tells of it, the lease ends, another host runs the job again, once."""
    wire = apis[0].wire
    scene.hold(2)
    request = wire.submit(PULID, portrait | {"prompt": scene.prompt})
    pid = scene.wait_for(step=2)
    victim = next(host for host in workers if pid in {process.pid for process in host.family()})
    victim.kill()
    second = scene.wait_for(step=2, times=2)
    scene.release()
    result = wire.finish(request)
    victim.start()
    fleet.wait_until_ready(apis[0], workers=2)

    assert result.status == 200
    assert second != pid
    assert scene.steps == [0, 1, 2, 0, 1, 2, 3, 4]


def test_a_crash_of_the_database_loses_and_doubles_nothing(fleet, apis, scene, portrait):
    """row 23: an immediate stop with jobs running, waiting and arriving; everybody reconnects by himself."""
    here, there = (api.wire for api in apis)
    scene.hold(2)
    running = here.submit(PULID, portrait | {"prompt": scene.prompt})
    scene.wait_for(step=2)
    waiting = [patiently(there, PULID, portrait | {"seed": seed}) for seed in range(4)]
    fleet.server.crash()
    refused = here.post(f"/{PULID}", portrait)
    readiness = there.get("/ready", host=None)
    fleet.server.start()
    later = patiently(there, PULID, portrait | {"seed": 9})
    scene.release()

    assert (refused.status, refused.json["error_type"]) == (503, "service_unavailable")
    assert "Retry-After" in refused.headers
    assert readiness.status == 503
    assert readiness.json["reasons"]
    requests = [running, *waiting, later]
    assert [eventually(lambda one=one: finished(here, one)) for one in requests] == [200] * 6
    fleet.wait_until_ready(apis[0], workers=2)


def test_a_database_that_takes_no_more_connections_is_503_and_recovers(fleet, apis, portrait):
    """row 24: nothing is acknowledged meanwhile, and nothing needs a restart."""
    here, there = (api.wire for api in apis)
    before = patiently(here, PULID, portrait)
    fleet.sql("ALTER ROLE veraicon CONNECTION LIMIT 0")
    fleet.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'veraicon'")
    refused = eventually(lambda: (answer := here.post(f"/{PULID}", portrait)).status == 503 and answer)
    [counted] = fleet.sql("SELECT count(*) FROM jobs")
    fleet.sql("ALTER ROLE veraicon CONNECTION LIMIT -1")
    after = patiently(there, PULID, portrait)

    assert (refused.json["error_type"], refused.headers["Retry-After"]) == ("service_unavailable", "5")
    assert [eventually(lambda one=one: finished(there, one)) for one in (before, after)] == [200, 200]
    assert fleet.sql("SELECT count(*) FROM jobs") == [(counted[0] + 1,)]
    fleet.wait_until_ready(apis[0], workers=2)


def test_a_standby_in_place_of_the_primary_is_503_and_recovers(fleet, apis, portrait):
    """row 23: after a failover that went to the wrong server: it answers every question and takes nothing."""
    here, there = (api.wire for api in apis)
    before = patiently(here, PULID, portrait)
    here.finish(before)
    read_only(fleet, "on")
    refused = eventually(lambda: (answer := here.post(f"/{PULID}", portrait)).status == 503 and answer)
    result, readiness = there.result(before), there.get("/ready", host=None)
    read_only(fleet, "off")
    after = patiently(there, PULID, portrait)

    assert refused.json["error_type"] == "service_unavailable"
    assert (result.status, readiness.status) == (200, 503)
    assert "read-only" in str(readiness.json["reasons"])
    assert eventually(lambda: finished(here, after)) == 200


def test_a_request_whose_notification_was_lost_begins_within_a_second(fleet, apis, scene, portrait):
    """row 25: the connections on which workers listen are gone at the moment of the submit; they listen again."""
    listeners = "FROM pg_stat_activity WHERE query = 'LISTEN veraicon_work' AND datname = current_database()"
    cut = eventually(lambda: fleet.sql(f"SELECT pg_terminate_backend(pid) {listeners}"))
    began, request = time.monotonic(), apis[0].wire.submit(PULID, portrait | {"prompt": scene.prompt})
    scene.wait_for(step=0)
    waited_s = time.monotonic() - began
    print(f"without its listeners the request began after {waited_s:.2f} s")

    assert set(cut) == {(True,)}
    assert waited_s < 5, "the safety poll looks every second; the rest is a busy machine"
    assert apis[1].wire.finish(request).status == 200
    eventually(lambda: fleet.sql(f"SELECT count(*) {listeners}")[0][0] >= len(cut))


def read_only(fleet: Fleet, state: str) -> None:
    fleet.sql(f"ALTER ROLE veraicon SET default_transaction_read_only = {state}")
    fleet.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'veraicon'")


def test_a_host_needs_few_connections(fleet):
    """docs/operations.md counts them: at rest, and never more than each process's pool."""
    [[now]] = fleet.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'veraicon'")
    print(f"connections of 2 APIs and 2 workers after work: {now}")
    assert now <= 4 * 2 * 16


def test_frozen_for_longer_than_its_lease_a_worker_finishes_nothing(fleet, apis, scene, portrait):
    """row 8: SIGSTOP of a host; another one runs the job; what wakes up finds that it was given away."""
    wire = apis[1].wire
    scene.hold(2)
    request = wire.submit(PULID, portrait | {"prompt": scene.prompt})
    pid = scene.wait_for(step=2)
    os.kill(pid, signal.SIGSTOP)
    try:
        scene.wait_for(step=2, times=2)
        scene.release()
        result = wire.finish(request)
    finally:
        with suppress(ProcessLookupError):  # after some more beats its supervisor ends it
            os.kill(pid, signal.SIGCONT)
    time.sleep(1)

    assert result.status == 200
    assert wire.result(request).body == result.body
    fleet.wait_until_ready(apis[0], workers=2)


def finished(wire, request) -> int | None:
    """The result's HTTP status, once there is one; None meanwhile, and while the server cannot tell."""
    answer = wire.status(request)
    if answer.status == 503:
        return None
    assert answer.status in {200, 202}, (answer.status, answer.body)
    return wire.result(request).status if answer.json["status"] == "COMPLETED" else None
