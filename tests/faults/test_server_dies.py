"""The server dies, in part or as a whole: what was acknowledged is done once, what was done is still served."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import psutil
import pytest

from tests.databases import STORES, PostgreSQL, running_postgresql
from tests.faults.site import PULID, FaultSite
from tests.wire import RUN
from tests.wire_receiver import Receiver

OPEN_SUBMITS, HALF_SENT, ANSWERED = 32, 8, 8
"""Of 32 connections 8 have sent half their body when the API is killed, and 8 have their answer."""
BOUND_S = 20
DRAIN_S = 1


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    with running_postgresql(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(scope="module", params=STORES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, face_photo: str):
    """On either database; a worker that is told to leave has a second for it."""
    url = request.getfixturevalue("postgresql").new_database() if request.param == "postgresql" else None
    with FaultSite(tmp_path_factory.mktemp("site"), face_photo, url, drain_s=DRAIN_S) as site:
        yield site


def test_an_api_killed_amid_open_submits_keeps_all_that_it_acknowledged(site, scene):
    """row 5: kill -9 while 32 submits are on the line; what got no answer is there once, or not at all."""
    running, api = site.run(scene, step=0), site.http()
    begin, answered, killed = threading.Barrier(OPEN_SUBMITS + 1), threading.Semaphore(0), threading.Event()

    def submit(seed: int) -> str | None:
        connection, body = site.anna.connect(), json.dumps(site.portrait(seed=seed)).encode()
        begin.wait()
        try:
            if seed < HALF_SENT:
                site.anna.send(connection, "POST", f"/{PULID}", headers={"Content-Length": str(len(body))})
                connection.send(body[: len(body) // 2])
                killed.wait()
                connection.send(body[len(body) // 2 :])
            else:
                site.anna.send(connection, "POST", f"/{PULID}", body)
            response = connection.getresponse()
            return json.loads(response.read())["request_id"] if response.status == 200 else None
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()
            answered.release()

    with ThreadPoolExecutor(OPEN_SUBMITS) as pool:
        answers = [pool.submit(submit, seed) for seed in range(OPEN_SUBMITS)]
        begin.wait()
        for _ in range(ANSWERED):
            answered.acquire()
        api.kill()
        killed.set()
        told = {seed: answer.result() for seed, answer in enumerate(answers)}
    scene.release()
    acknowledged = {(seed, request_id) for seed, request_id in told.items() if request_id}
    print(f"{len(acknowledged)} of {OPEN_SUBMITS} submits were acknowledged before the kill")
    site.check()
    stored = [job for job in site.stored() if job.id != running["request_id"]]

    assert ANSWERED <= len(acknowledged) <= OPEN_SUBMITS - HALF_SENT
    assert acknowledged <= {(job.input["seed"], job.id) for job in stored}
    assert len({job.input["seed"] for job in stored}) == len(stored)
    assert {job.http_status for job in stored} == {200}


def test_after_a_kill_of_everything_the_order_is_kept_and_results_are_still_served(site, scene):
    """row 6: one is done, one runs, four wait; a restart is the same server over the same data."""
    done = site.submit(seed=9)
    result = site.finish(done)
    url = result.json["images"][0]["url"]
    picture = site.anna.follow(url).body
    running = site.run(scene, step=2)
    waiting = [site.submit(seed=seed) for seed in range(4)]
    site.kill_and_restart()
    scene.release()
    results = [site.finish(each) for each in (running, *waiting)]
    after = [site.job(each) for each in (running, *waiting)]

    assert [each.status for each in results] == [200] * 5
    assert [each.json["seed"] for each in results[1:]] == [0, 1, 2, 3]
    assert sorted(after, key=lambda job: job.started_at) == sorted(after, key=lambda job: job.finished_at) == after
    assert scene.steps == [0, 1, 2, 0, 1, 2, 3, 4]
    assert site.anna.result(done).body == result.body
    assert site.anna.follow(url).body == picture


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
def test_a_webhook_whose_sender_was_killed_is_sent_after_the_restart(site, scene):
    """row 4: the process that sends it sleeps while the result is stored, and never wakes."""
    with Receiver() as receiver:
        scene.hold(2)
        request = site.submit(scene, query=f"?fal_webhook={receiver.url}/done")
        scene.wait_for(step=2)
        psutil.Process(site.server.process.pid).suspend()
        scene.release()
        result = site.finish(request)
        before = len(receiver.received)
        site.kill_and_restart()
        delivered = json.loads(receiver.wait().body)
        site.check()

        assert before == 0
        assert delivered["request_id"] == request["request_id"]
        assert delivered["payload"] == result.json
        assert len(receiver.received) == 1
    assert site.job(request).attempt == 1


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
def test_a_server_told_to_stop_leaves_in_time_and_gives_the_running_request_back(site, scene):
    """row 7: though a step does not end, a client waits on the line, one streams and one polls; no attempt is burnt."""
    request = site.run(scene, step=2)
    with ThreadPoolExecutor(2) as pool, site.stream(request) as events:
        next(events)
        direct = pool.submit(site.anna.post, f"/{PULID}", site.portrait(), host=RUN)
        poll = pool.submit(site.anna.wait_for, request, "COMPLETED")
        began = time.monotonic()
        site.server.process.terminate()
        site.server.process.wait(BOUND_S)
        print(f"the server left {time.monotonic() - began:.1f} s after SIGTERM, {DRAIN_S} s of them drain")
        assert site.job(request).state == "IN_QUEUE"
        assert direct.exception() or direct.result().status >= 500
        assert poll.exception()
    scene.release()
    site.restart()

    assert site.finish(request).status == 200
    assert site.tries(request) == 1
    assert scene.steps == [0, 1, 2, 0, 1, 2, 3, 4]
