"""Receivers of webhooks that fail, hang, redirect or lie in wait; and what an honest one can verify."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from cryptography.exceptions import InvalidSignature
from sqlalchemy import func, update

from server.queue.tables import jobs, outbox
from tests.faults.scene import Scene
from tests.faults.site import PULID, FaultSite
from tests.integration.test_wire_webhooks import JWKS, verify
from tests.server_process import veraicon
from tests.wire_checks import assert_is_request_error
from tests.wire_receiver import Received, Receiver
from tests.worker_process import eventually

STUDIO = "127.0.0.2"
"""The only address of this machine that the operator lets webhooks go to."""
TWO_HOURS_S = 7200
FIRST_TIMEOUT_S, LATE_S = 15, 10
"""When a receiver that does not answer is left; and by how much later a busy machine may do so."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, face_photo: str) -> Iterator[FaultSite]:
    settings = {"outbound": f"{STUDIO}/32", "log_format": "json"}
    with FaultSite(tmp_path_factory.mktemp("site"), face_photo, **settings) as site:
        yield site


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(address=STUDIO) as receiver:
        yield receiver


def submit(site: FaultSite, receiver: Receiver, scene: Scene | None = None, **input: Any) -> dict[str, Any]:
    return site.submit(scene, query=f"?fal_webhook={receiver.url}/done", **input)


def told(receiver: Receiver, number: int) -> Received:
    """The delivery of this number, counted from 1, once it has come."""
    eventually(lambda: len(receiver.received) >= number)
    return receiver.received[number - 1]


def failures(site: FaultSite, request: dict[str, Any]) -> list[dict[str, Any]]:
    """What the server's log says of each try that failed, once it is settled."""
    lines = [json.loads(line) for line in site.server.log.splitlines() if '"webhook failed"' in line]
    return [line for line in lines if line["request_id"] == request["request_id"]]


def hasten(site: FaultSite, request: dict[str, Any]) -> None:
    """Let the next try be due now, and not in half an hour."""
    with site.queue._store.writing() as connection:
        connection.execute(update(outbox).where(outbox.c.job_id == request["request_id"]).values(deadline=0))


def state(site: FaultSite, request: dict[str, Any]) -> str | None:
    """Of the webhook; None while the request is not finished."""
    sendings = site.queue.deliveries.sendings(job_id=request["request_id"])
    return sendings[0].state if sendings else None


def test_a_receiver_that_fails_nine_times_has_the_result_once_with_the_tenth_try(site, receiver):
    """row 44: the pauses that the server names are within two hours; what it sends is the same each time."""
    receiver.status = 500
    request = submit(site, receiver)
    for number in range(1, 10):
        eventually(lambda number=number: len(failures(site, request)) == number)
        receiver.status = 500 if number < 9 else 200
        hasten(site, request)
    eventually(lambda: state(site, request) == "delivered")
    pauses = [failure["retry_in_s"] for failure in failures(site, request)]
    tries = site.queue.deliveries.of(request["request_id"])
    print(f"nine failures, pauses of {pauses} s")

    assert len(receiver.received) == 10
    assert len({each.body for each in receiver.received}) == 1
    assert json.loads(receiver.received[-1].body)["payload"] == site.finish(request).json
    assert pauses == sorted(pauses)
    assert sum(pauses) <= TWO_HOURS_S
    assert [each.status for each in tries] == [500] * 9 + [200]


def test_a_receiver_that_hangs_is_cut_and_holds_up_nobody(site, receiver):
    """row 45: after 15 s; meanwhile portraits are made and others are told; then it is tried again."""
    with socket.create_server((STUDIO, 0)) as door:
        hanging = site.submit(query=f"?fal_webhook=http://{STUDIO}:{door.getsockname()[1]}/")
        caller, began = door.accept()[0], time.monotonic()
        others = [submit(site, receiver, seed=seed) for seed in range(2)]
        told(receiver, number=len(others))
        others_s = time.monotonic() - began
        with caller:
            hung_up(caller)
        cut_s = time.monotonic() - began
        eventually(lambda: failures(site, hanging))
        hasten(site, hanging)
        with door.accept()[0] as caller:
            caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            hung_up(caller)
    eventually(lambda: state(site, hanging) == "delivered")
    print(f"two others were told after {others_s:.1f} s; the silent one was left after {cut_s:.1f} s")

    assert others_s < cut_s
    assert FIRST_TIMEOUT_S - 1 < cut_s < FIRST_TIMEOUT_S + LATE_S
    assert [each["tries"] for each in failures(site, hanging)] == [1]


def hung_up(caller: socket.socket) -> None:
    """Read until the caller ends the connection."""
    caller.settimeout(FIRST_TIMEOUT_S + LATE_S)
    while caller.recv(65536):
        continue


def test_a_redirect_to_a_private_address_is_not_followed_and_final(site):
    """row 46: whoever it leads to hears nothing."""
    with Receiver() as private, Receiver(302, address=STUDIO, location=f"{private.url}/") as redirecting:
        request = submit(site, redirecting)
        eventually(lambda: failures(site, request))

        assert state(site, request) == "given up"
        assert [each["retry_in_s"] for each in failures(site, request)] == [None]
        assert [each.path for each in redirecting.received] == ["/done"]
        assert private.received == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/",
        "http://[::1]/",
        "http://127.1/",
        "http://localhost/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
    ],
)
def test_a_webhook_to_this_machine_or_its_cloud_is_refused_and_nothing_is_queued(site, url):
    """row 47."""
    before = len(site.stored())
    answer = site.anna.post(f"/{PULID}?fal_webhook={url}", site.portrait())

    assert_is_request_error(answer, 422, "bad_request")
    assert "fal_webhook" in answer.json["detail"]
    assert len(site.stored()) == before


def test_a_body_that_was_changed_and_one_that_is_replayed_do_not_verify(site, receiver):
    """row 48: by fal's recipe: the body's hash, and five minutes."""
    request = submit(site, receiver)
    genuine = told(receiver, number=1)
    jwks = site.server.wire.get(JWKS, host="rest.fal.ai").json
    forged = Received("POST", genuine.path, genuine.headers, genuine.body.replace(b'"seed":1', b'"seed":2'))

    assert verify(genuine, jwks)
    assert json.loads(genuine.body)["payload"] == site.finish(request).json
    assert forged.body != genuine.body
    with pytest.raises(InvalidSignature, match="no key fits"):
        verify(forged, jwks)
    with pytest.raises(InvalidSignature, match="too old"):
        verify(genuine, jwks, at=time.time() + 301)


def test_a_rotation_between_two_tries_leaves_both_verifiable(site, receiver):
    """row 49: the first try is signed with the old key, the second with the new one; both are published."""
    receiver.status = 500
    request = submit(site, receiver)
    eventually(lambda: failures(site, request))
    rotated = veraicon(site.server.data_dir, "webhooks", "rotate-key", **site.settings)
    receiver.status = 200
    hasten(site, request)
    before, after = told(receiver, number=1), told(receiver, number=2)
    jwks = site.server.wire.get(JWKS, host="rest.fal.ai").json

    assert rotated.returncode == 0
    assert before.body == after.body
    assert verify(before, jwks) != verify(after, jwks)


def test_a_result_that_is_no_json_is_told_as_such(site, receiver, scene):
    """row 50: the payload is null, and the reason is said. No pipeline makes such a result: a stored one is spoiled."""
    scene.hold(2)
    request = submit(site, receiver, scene)
    scene.wait_for(step=2)
    sender = psutil.Process(site.server.process.pid)
    sender.suspend()
    scene.release()
    site.finish(request)
    with site.queue._store.writing() as connection:
        spoiled = func.replace(jobs.c.result, '"seed": 1', '"seed": NaN')
        connection.execute(update(jobs).where(jobs.c.id == request["request_id"]).values(result=spoiled))
    sender.resume()
    body = json.loads(told(receiver, number=1).body)

    assert (body["status"], body["payload"]) == ("OK", None)
    assert body["payload_error"].startswith("Response payload is not JSON serializable.")
    assert site.job(request).result["images"], "the portrait itself is there"
    assert site.anna.result(request).json["detail"][0]["type"] == "internal_server_error"
