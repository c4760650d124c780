"""Keys of the webhooks and of upload tickets: made once for all hosts, published before they sign, withdrawn later."""

import base64
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from server.signing import Signer, new_pem


def signed_by(signer: Signer, keys: list[dict[str, str]]) -> bool:
    """Whether what is signed now verifies with one of these published keys."""
    headers = signer.headers("id", "me", b"{}", 1)
    message = "\n".join(["id", "me", "1", hashlib.sha256(b"{}").hexdigest()]).encode()
    for key in keys:
        public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4)))
        try:
            public.verify(bytes.fromhex(headers["X-Fal-Webhook-Signature"]), message)
        except InvalidSignature:
            continue
        return True
    return False


def test_every_process_has_the_same_secrets_whoever_was_first(open_queue):
    """Several hosts share one database: receivers find one key, whichever of them signs."""
    queues = [open_queue() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        published = list(pool.map(lambda queue: Signer(queue.vault).jwks(), queues))
        secrets = set(pool.map(lambda queue: queue.vault.ticket_secret(), queues))

    assert published[0] == published[1] == published[2]
    assert len(published[0]["keys"]) == 2
    assert len(secrets) == 1


def test_a_key_that_is_announced_is_published_before_it_signs(queue):
    """Receivers may remember the published keys for a day; the old one is withdrawn when its time is over."""
    signer = Signer(queue.vault)
    old = signer.jwks()["keys"]
    queue.vault.rotate_webhook_key(new_pem(), announce_s=0.5, overlap_s=0.5)
    new = signer.jwks()["keys"][:2]
    assert signer.jwks()["keys"] == [*new, *old]
    assert (signed_by(signer, old), signed_by(signer, new)) == (True, False)
    time.sleep(0.6)
    assert signer.jwks()["keys"] == [*new, *old]
    assert (signed_by(signer, old), signed_by(signer, new)) == (False, True)
    time.sleep(0.5)
    assert signer.jwks()["keys"] == new


def test_a_leaked_key_is_withdrawn_even_while_another_rotation_runs(queue):
    signer = Signer(queue.vault)
    first = signer.jwks()["keys"]
    queue.vault.rotate_webhook_key(new_pem(), announce_s=0, overlap_s=3600)
    second = signer.jwks()["keys"][:2]
    queue.vault.rotate_webhook_key(new_pem(), announce_s=0, overlap_s=0)

    assert len(signer.jwks()["keys"]) == 2
    assert not signed_by(signer, [*first, *second])
