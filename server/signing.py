"""Signing: the Ed25519 signatures of webhooks, and the keys that receivers verify them with (fal-protocol.md §7)."""

import base64
import hashlib
import time
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from server.queue.vault import SigningKey, Vault


@dataclass(frozen=True)
class Signer:
    """Signs with the newest key whose time has come. Asks the vault each time: another process may have rotated."""

    vault: Vault

    def headers(self, request_id: str, user_id: str, body: bytes, timestamp: int) -> dict[str, str]:
        """fal's four headers: the signature covers request id, user id, time and the body's SHA-256."""
        message = "\n".join((request_id, user_id, str(timestamp), hashlib.sha256(body).hexdigest()))
        return {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": user_id,
            "X-Fal-Webhook-Timestamp": str(timestamp),
            "X-Fal-Webhook-Signature": self._key().sign(message.encode()).hex(),
        }

    def jwks(self) -> dict[str, Any]:
        """The public keys, newest first and each twice: fal's own Python sample needs the padding RFC 7515 forbids."""
        keys = reversed(self.vault.webhook_keys(new_pem))
        return {"keys": [entry for key in keys for entry in entries(private_key(key).public_key())]}

    def _key(self) -> Ed25519PrivateKey:
        keys = self.vault.webhook_keys(new_pem)
        return private_key([key for key in keys if key.signs_from <= time.time()][-1])


def new_pem() -> str:
    """A new private key."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def private_key(key: SigningKey) -> Ed25519PrivateKey:
    """Raises ValueError for what is no Ed25519 key."""
    loaded = load_pem_private_key(key.pem.encode(), None)
    if not isinstance(loaded, Ed25519PrivateKey):
        raise ValueError("a signing key of the vault is no Ed25519 key: `veraicon webhooks rotate-key` makes a new one")
    return loaded


def entries(key: Ed25519PublicKey) -> tuple[dict[str, str], dict[str, str]]:
    """One key as JWKS entries: padded, and as RFC 7515 wants it."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    padded, kid = base64.urlsafe_b64encode(raw).decode(), hashlib.sha256(raw).hexdigest()[:16]
    common = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"}
    return {**common, "kid": kid, "x": padded}, {**common, "kid": f"{kid}-rfc", "x": padded.rstrip("=")}
