"""Webhooks on the wire: a real server, a real receiver, and fal's published recipe: §7, statements 87-90 and 93."""

import base64
import hashlib
import json
import re
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from typer.testing import CliRunner, Result

from server.cli.webhooks import webhooks
from tests.pipelines.catalog import BLUE_SQUARE, BROKEN
from tests.server_process import veraicon
from tests.wire_receiver import Received, Receiver
from tests.worker_process import eventually

JWKS = "/.well-known/jwks.json"
REST_HOSTS = ("rest.fal.ai", "rest.alpha.fal.ai")


def told(wire, receiver: Receiver, endpoint: str, body: dict, number: int = 1) -> tuple[dict, Received]:
    """Submit with a webhook; the submit's answer and the `number`-th delivery."""
    request = wire.submit(endpoint, body, query=f"?fal_webhook={receiver.url}")
    eventually(lambda: len(receiver.received) >= number)
    return request, receiver.received[number - 1]


def command(folder: Path, *words: str) -> Result:
    """`veraicon webhooks …` in this process, beside the running server."""
    return CliRunner().invoke(webhooks, [*words, "--data-dir", str(folder)])


def verify(received: Received, jwks: dict, at: float | None = None) -> str:
    """fal's documented recipe: each key without repair of its padding, times within 300 s. Returns the kid."""
    header = {name: received.headers[f"X-Fal-Webhook-{name}"] for name in ("Request-Id", "User-Id", "Timestamp")}
    if abs((at or time.time()) - int(header["Timestamp"])) > 300:
        raise InvalidSignature("the timestamp is too old or from the future")
    message = "\n".join([*header.values(), hashlib.sha256(received.body).hexdigest()]).encode()
    for key in jwks["keys"]:
        try:
            public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"]))
            public.verify(bytes.fromhex(received.headers["X-Fal-Webhook-Signature"]), message)
            return key["kid"]
        except (ValueError, InvalidSignature):
            continue
    raise InvalidSignature("no key fits")


def test_success_is_told_with_both_ids_and_the_payload(wire, pulid_input):
    """87: the payload is what the result endpoint answers."""
    with Receiver() as receiver:
        request, received = told(wire, receiver, "fal-ai/pulid", pulid_input)
    body = json.loads(received.body)

    assert (received.method, received.headers.get_content_type()) == ("POST", "application/json")
    assert set(body) == {"request_id", "gateway_request_id", "status", "payload"}
    assert body["request_id"] == body["gateway_request_id"] == request["request_id"]
    assert body["status"] == "OK"
    assert body["payload"] == wire.result(request).json


@pytest.mark.parametrize(
    ("endpoint", "body", "code"), [("fal-ai/pulid", {"reference_images": []}, 422), (BROKEN.id, {"prompt": "x"}, 500)]
)
def test_failure_is_told_with_its_status_code(wire, endpoint, body, code):
    """88, 93: an input that is refused, and work that breaks."""
    with Receiver() as receiver:
        request, received = told(wire, receiver, endpoint, body)
    told_body = json.loads(received.body)

    assert (told_body["status"], told_body["error"]) == ("ERROR", f"Invalid status code: {code}")
    assert told_body["payload"] == wire.result(request).json
    assert told_body["payload"]["detail"]


def test_a_redirect_is_the_last_word(wire, painting_server, pulid_input):
    """92: not followed, and not tried again."""
    with Receiver(status=302) as receiver:
        request, _ = told(wire, receiver, "fal-ai/pulid", pulid_input)
        log = ("list", "--request", request["request_id"])
        eventually(lambda: "given up" in command(painting_server.data_dir, *log).stdout)
        assert len(receiver.received) == 1


def test_a_cancelled_request_is_told_too(wire, gate):
    """93."""
    gate.occupy()
    with Receiver() as receiver:
        request = wire.submit(gate.endpoint, gate.body, query=f"?fal_webhook={receiver.url}")
        wire.cancel(request)
        body = json.loads(receiver.wait().body)

    assert (body["request_id"], body["status"]) == (request["request_id"], "ERROR")
    assert body["error"] == "Invalid status code: 499"


def test_the_signature_verifies_by_fals_recipe_and_nothing_else_does(wire):
    """89: row 48: a body that was changed, another's headers, and a replay after five minutes are told apart."""
    with Receiver() as receiver:
        _, first = told(wire, receiver, BLUE_SQUARE.id, {"prompt": "x"})
        _, second = told(wire, receiver, BLUE_SQUARE.id, {"prompt": "x"}, 2)
    jwks = wire.get(JWKS, host=REST_HOSTS[0]).json

    assert verify(first, jwks)
    assert re.fullmatch("[0-9a-f]{128}", first.headers["X-Fal-Webhook-Signature"])
    for forged in (
        Received("POST", "/", first.headers, first.body.replace(b'"seed":7', b'"seed":8')),
        Received("POST", "/", second.headers, first.body),
    ):
        assert forged.body != second.body
        with pytest.raises(InvalidSignature):
            verify(forged, jwks)
    with pytest.raises(InvalidSignature, match="too old"):
        verify(first, jwks, at=time.time() + 301)


def test_the_keys_are_published_padded_first_on_both_rest_hosts(wire):
    """90: for a day at most; padded for fal's own sample, unpadded for RFC 7515."""
    answers = [wire.get(JWKS, host=host) for host in REST_HOSTS]
    padded, bare = answers[0].json["keys"]

    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].json == answers[1].json
    assert (len(padded["x"]), bare["x"]) == (44, padded["x"].rstrip("="))
    assert {key["kty"] + key["crv"] + key["use"] + key["alg"] for key in (padded, bare)} == {"OKPEd25519sigEdDSA"}
    assert padded["kid"] != bare["kid"]
    for answer in answers:
        assert int(re.search(r"max-age=(\d+)", answer.headers["cache-control"])[1]) <= 86_400


def test_the_operator_reads_every_try_and_sends_a_webhook_again(painting_server):
    """The log has times and answers, no bodies; a replay is the same body and ids, freshly signed."""
    wire, folder = painting_server.wire, painting_server.data_dir
    with Receiver() as receiver:
        request, first = told(wire, receiver, BLUE_SQUARE.id, {"prompt": "Xanthippe"})
        request_id = request["request_id"]
        time.sleep(1.1)  # a signature's time is in whole seconds
        replayed = veraicon(folder, "webhooks", "replay", request_id)
        eventually(lambda: len(receiver.received) == 2)
        second = receiver.received[1]
    listed = command(folder, "list", "--request", request_id)
    unknown = command(folder, "replay", "nothing")

    assert (replayed.returncode, listed.exit_code) == (0, 0), (replayed, listed)
    assert second.body == first.body
    assert second.headers["X-Fal-Webhook-Request-Id"] == request_id
    assert second.headers["X-Fal-Webhook-Timestamp"] != first.headers["X-Fal-Webhook-Timestamp"]
    assert verify(second, wire.get(JWKS).json)
    assert "delivered" in listed.stdout
    assert len(re.findall(r"UTC +200 +\d+\.\d\d", listed.stdout)) == 2
    assert "Xanthippe" not in listed.stdout
    assert unknown.exit_code == 1
    assert "veraicon webhooks list" in unknown.stdout


def test_after_a_rotation_both_keys_are_published_and_only_the_new_one_signs(painting_server):
    """The fault of row 49: no restart; what the old key signed verifies still."""
    wire, folder = painting_server.wire, painting_server.data_dir
    with Receiver() as receiver:
        _, before = told(wire, receiver, BLUE_SQUARE.id, {"prompt": "x"})
        old = wire.get(JWKS).json["keys"]
        rotated = command(folder, "rotate-key")
        both = wire.get(JWKS).json
        _, after = told(wire, receiver, BLUE_SQUARE.id, {"prompt": "x"}, 2)
        withdrawn = command(folder, "rotate-key", "--overlap-h", "0")
        alone = wire.get(JWKS).json

    assert rotated.exit_code == withdrawn.exit_code == 0, (rotated, withdrawn)
    assert len(both["keys"]) == len(old) + 2
    assert both["keys"][2:] == old
    assert verify(before, both) == old[0]["kid"]
    assert verify(after, both) == both["keys"][0]["kid"]
    assert len(alone["keys"]) == 2
    with pytest.raises(InvalidSignature):
        verify(after, alone)
