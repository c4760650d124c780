"""fal's own clients ask for a webhook; who receives it verifies it by code that shares nothing with the server."""

import base64
import hashlib
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.clients.matrix import feature
from tests.wire_receiver import Received, Receiver

SIGNED = ("X-Fal-Webhook-Request-Id", "X-Fal-Webhook-User-Id", "X-Fal-Webhook-Timestamp")


def verify(received: Received, jwks: dict) -> None:
    """fal's documented recipe for Python, with its strict decoder. Raises InvalidSignature."""
    lines = [*(received.headers[name] for name in SIGNED), hashlib.sha256(received.body).hexdigest()]
    key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(jwks["keys"][0]["x"]))
    key.verify(bytes.fromhex(received.headers["X-Fal-Webhook-Signature"]), "\n".join(lines).encode())


@feature("webhook, verified")
def test_the_webhook_is_delivered_and_its_signature_verifies(client, names, tls_server, pulid_input):
    """17, 87, 89, 90: in Node by its own crypto and fetch, in Python by the published recipe."""
    given = {"endpoint": "fal-ai/pulid", "input": pulid_input}
    if client.javascript:
        answer = client.run("webhook", given, names.environment)
        assert (answer["genuine"], answer["forgedToo"]) == (True, False)
        body = answer
    else:
        with Receiver() as receiver:
            webhook = f"{receiver.url}/results?job=1"
            submitted = client.run("webhook", given | {"webhook": webhook}, names.environment)
            received = receiver.wait()
        verify(received, tls_server.wire.get("/.well-known/jwks.json", host="rest.fal.ai").json)
        body = json.loads(received.body)
        assert received.path == "/results?job=1"
        assert body["request_id"] == submitted["id"]

    assert body["status"] == "OK"
    assert body["payload"]["seed"] == 1
