"""Two tenants on one server: what one has does not exist for the other; and those who have no key at all."""

import socket
import statistics
import time
import uuid

import pytest

from server.auth import new_key
from tests.faults.site import PULID
from tests.server_process import veraicon

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
    "half a megabyte": "Key " + "sekret" * 90_000,
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
    """row 82: medians of interleaved polls; whatever looked up more for one of them would be far slower."""
    request = site.submit()
    site.finish(request)
    took: dict[str, list[float]] = {request["request_id"]: [], str(uuid.uuid4()): []}
    for _ in range(40):
        for request_id, times in took.items():
            began = time.perf_counter()
            assert site.ben.get(at(request_id, "status")).status == 404
            times.append(time.perf_counter() - began)
    theirs, nobodys = (statistics.median(times) for times in took.values())

    assert 1 / 3 < theirs / nobodys < 3


def test_a_file_that_its_owner_keeps_to_itself_does_not_open_for_another(site):
    """row 82: and everybody else's needs its unguessable URL."""
    mine = '{"initial_acl": {"default": "hide", "rules": []}}'
    request = site.submit(headers={"x_fal_object_lifecycle_preference": mine})
    url = site.finish(request).json["images"][0]["url"]

    assert site.anna.follow(url).status == 200
    assert site.ben.follow(url).status == 404
    assert site.ben.follow(url[:-12] + "0" * 8 + ".png").status == 404


@pytest.mark.parametrize("wrong", WRONG)
def test_without_a_good_key_nothing_is_queued_and_nothing_is_told(site, wrong):
    """row 83: 401 in fal's shape; the key stands neither in the answer nor in the log."""
    presented = WRONG[wrong]
    before = sum(site.queue.census.take().states.values())
    headers = {} if presented is None else {"Authorization": presented}
    answer = site.server.wire.post(f"/{PULID}", site.portrait(), headers=headers)

    assert answer.status in ({401, 431} if wrong == "half a megabyte" else {401})
    assert answer.content_type == "application/json"
    assert isinstance(answer.json["detail"], str)
    assert sum(site.queue.census.take().states.values()) == before
    if presented and len(presented) > 10:
        assert presented[4:40] not in answer.body.decode() + site.server.log


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
