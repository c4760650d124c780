"""Two tenants on one server: what one has does not exist for the other, and what one wants costs the other little."""

import socket
import statistics
import time
import uuid
from collections.abc import Callable
from functools import partial

import pytest

from server.auth import new_key
from tests.faults.site import PULID
from tests.server_process import veraicon

FLOOD, TIMED = 40, 40
WAYS = {"status": "GET", "status/stream": "GET", "": "GET", "response": "GET", "cancel": "PUT"}
WRONG = {
    "missing": None,
    "empty": "",
    "bare scheme": "Key",
    "bare Bearer": "Bearer",
    "other scheme": "Basic YTpi",
    "wrong": f"Key {new_key()}",
    "wrong Bearer": f"Bearer {new_key()}",
    "not ASCII": "Key \x80\xff",
    "a megabyte": "Key " + "sekret" * 180_000,
}


def at(request_id: str, way: str) -> str:
    return f"/{PULID}/requests/{request_id}" + (f"/{way}" if way else "")


def test_anothers_request_does_not_exist_and_runs_on(site, scene):
    """row 82: status, stream, result and cancel answer what they answer for an id that never was."""
    request = site.run(scene, step=2)
    for way, method in WAYS.items():
        theirs = site.ben.ask(method, at(request["request_id"], way))
        nobodys = site.ben.ask(method, at(str(uuid.uuid4()), way))
        assert theirs.status == nobodys.status == 404
        assert theirs.body == nobodys.body
        assert theirs.headers.keys() == nobodys.headers.keys()
        assert request["request_id"] not in str(theirs.headers)
    removed = site.ben.ask("DELETE", at(request["request_id"], ""))
    scene.release()

    assert removed.status == 404
    assert site.finish(request).status == 200


def test_anothers_request_takes_as_long_as_none(site):
    """row 82: whatever looked up more for one of them would be far slower."""
    request = site.submit()
    site.finish(request)
    theirs, nobodys = (at(request_id, "status") for request_id in (request["request_id"], str(uuid.uuid4())))

    def poll(path: str) -> None:
        assert site.ben.get(path).status == 404

    assert 1 / 3 < ratio(partial(poll, theirs), partial(poll, nobodys)) < 3


def ratio(one: Callable[[], None], other: Callable[[], None]) -> float:
    """How many times as long the one takes: medians of interleaved calls."""
    took: dict[Callable[[], None], list[float]] = {one: [], other: []}
    for _ in range(TIMED):
        for call, times in took.items():
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return statistics.median(took[one]) / statistics.median(took[other])


def test_a_file_that_its_owner_keeps_to_itself_does_not_open_for_another(site):
    """row 82: and everybody else's needs its unguessable URL."""
    mine = '{"initial_acl": {"default": "hide", "rules": []}}'
    request = site.submit(headers={"x_fal_object_lifecycle_preference": mine})
    url = site.finish(request).json["images"][0]["url"]

    assert site.anna.follow(url).status == 200
    assert site.ben.follow(url).status == 404
    assert site.ben.follow(url[:-12] + "0" * 8 + ".png").status == 404


def test_a_flood_of_one_tenant_costs_the_other_one_place(site, scene):
    """row 42: though the device is busy with the flood's owner, and dozens of requests were there before."""
    site.fill(scene)
    flood = [site.submit(seed=seed) for seed in range(FLOOD)]
    request = site.ben.submit(PULID, site.portrait())
    place = site.ben.status(request).json["queue_position"]
    scene.release()
    result = site.ben.finish(request)
    started = site.job(request).started_at
    for each in flood:
        site.anna.cancel(each)
    waited_for = [each for each in map(site.job, flood) if each.started_at and each.started_at < started]

    assert result.status == 200
    assert place == 1
    assert len(waited_for) <= 1


@pytest.mark.parametrize("wrong", WRONG)
def test_without_a_good_key_nothing_is_queued_and_nothing_is_told(site, wrong):
    """row 83: 401 in fal's shape; the key stands neither in the answer nor in the log."""
    presented = WRONG[wrong]
    before = sum(site.queue.census.take().states.values())
    headers = {} if presented is None else {"Authorization": presented}
    answer = site.server.wire.post(f"/{PULID}", site.portrait(), headers=headers)

    assert answer.status in ({401, 431} if wrong == "a megabyte" else {401})
    assert answer.content_type == "application/json"
    assert isinstance(answer.json["detail"], str)
    assert sum(site.queue.census.take().states.values()) == before
    if presented and len(presented) > 10:
        assert presented[4:40] not in answer.body.decode() + site.server.log


def test_a_wrong_secret_takes_as_long_as_an_unknown_key(site):
    """row 83: nobody learns from the time which ids there are, or how much of a secret is right."""
    id, _, secret = site.keys["anna"].partition(":")
    nearly = f"{id}:{secret[:-1]}{'1' if secret[-1] == '0' else '0'}"

    def poll(key: str) -> None:
        headers = {"Authorization": f"Key {key}"}
        assert site.server.wire.get(at(str(uuid.UUID(int=7)), "status"), headers=headers).status == 401

    assert 1 / 3 < ratio(partial(poll, nearly), partial(poll, new_key())) < 3


def test_a_revoked_key_opens_nothing_any_more(site):
    """row 83: at once, on a server that runs."""
    folder, settings = site.server.data_dir, site.settings
    made = veraicon(folder, "keys", "create", "carl", **settings)
    headers = {"Authorization": f"Key {made.stdout.split()[-1]}"}
    before = site.server.wire.post(f"/{PULID}", site.portrait(), headers=headers)
    assert veraicon(folder, "keys", "revoke", "carl", **settings).returncode == 0
    after = site.server.wire.post(f"/{PULID}", site.portrait(), headers=headers)

    assert (before.status, after.status) == (200, 401)


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b"\0"], ids=["CRLF", "LF", "CR", "NUL"])
def test_a_key_with_a_line_end_in_it_is_no_way_in(site, end):
    """row 83: a second header that hides in the first counts for nothing when the first is wrong."""
    host, _, port = site.server.wire.address.partition(":")
    key = site.keys["anna"].encode()
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(
            f"GET {at(str(uuid.uuid4()), 'status')} HTTP/1.1\r\nHost: queue.fal.run\r\nConnection: close\r\n".encode()
            + b"Authorization: Key wrong"
            + end
            + b"Authorization: Key "
            + key
            + b"\r\n\r\n"
        )
        answer = b"".join(iter(lambda: line.recv(65536), b""))

    assert answer.split(b" ", 2)[1] in {b"400", b"401"}
    assert key not in answer
    assert key.decode() not in site.server.log
