"""Webhooks: tell a client's server that its request is finished; signed, retried (fal-protocol.md §7)."""

import asyncio
import base64
import hashlib
import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from sqlalchemy.exc import SQLAlchemyError

from server import bodies
from server.errors import RequestError
from server.outbound import Outbound, Refused, check, parse_url, pinned
from server.queue.job import Job, Webhook
from server.queue.queue import Queue
from server.settings import Settings

FIRST_TIMEOUT_S, LATER_TIMEOUT_S = 15, 120
RETRY_DELAYS_S = (5, 15, 60, 120, 300, 600, 900, 1200, 1500, 1800)
"""Ten retries within two hours, as fal's documentation promises."""
AT_ONCE = 16

log = structlog.get_logger()


class WebhookRefused(RequestError):
    """The webhook's URL may not be called."""

    http_status, error_type = 422, "bad_request"


def check_url(url: str, settings: Settings) -> None:
    """Refuse a webhook to a host that this server may not call. Raises WebhookRefused."""
    try:
        check(Outbound.of(settings), url)
    except Refused as refusal:
        raise WebhookRefused(f"fal_webhook: {refusal}") from None


@dataclass(frozen=True)
class Signer:
    """The server's Ed25519 key."""

    key: Ed25519PrivateKey

    @classmethod
    def of(cls, data_dir: Path) -> "Signer":
        """The key in ``data_dir/webhook_key.pem``, made on first use."""
        path = data_dir / "webhook_key.pem"
        if not path.exists():
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_once(path, pem)
        key = load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} is no Ed25519 key: move it away, and a new one is made")
        return cls(key)

    def headers(self, request_id: str, user_id: str, body: bytes, timestamp: int) -> dict[str, str]:
        """fal's four headers: the signature covers request id, user id, time and the body's SHA-256."""
        message = "\n".join((request_id, user_id, str(timestamp), hashlib.sha256(body).hexdigest()))
        return {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": user_id,
            "X-Fal-Webhook-Timestamp": str(timestamp),
            "X-Fal-Webhook-Signature": self.key.sign(message.encode()).hex(),
        }

    def jwks(self) -> dict[str, Any]:
        """The public key for verifiers, twice: fal's own Python sample needs the padding that RFC 7515 forbids."""
        raw = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        padded = base64.urlsafe_b64encode(raw).decode()
        kid = hashlib.sha256(raw).hexdigest()[:16]
        common = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"}
        return {"keys": [{**common, "kid": kid, "x": padded}, {**common, "kid": f"{kid}-rfc", "x": padded.rstrip("=")}]}


def write_once(path: Path, data: bytes) -> None:
    """Create a private file, whole; if another process was first, its file stays."""
    draft = path.with_name(f"{path.name}.{time.time_ns()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft.touch(mode=0o600)
    try:
        draft.write_bytes(data)
        path.hardlink_to(draft)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def payload(job: Job) -> dict[str, Any]:
    """What a webhook says about a finished job."""
    status = job.http_status or 500
    told: dict[str, Any] = {"request_id": job.id, "gateway_request_id": job.id}
    if status < 400:
        return {**told, "status": "OK", "payload": bodies.result(job)}
    return {**told, "status": "ERROR", "error": f"Invalid status code: {status}", "payload": bodies.result(job)}


class Sender:
    """Sends what is due in the queue's outbox. Any number of processes may run one."""

    def __init__(self, queue: Queue, settings: Settings) -> None:
        self.queue, self.outbound = queue, Outbound.of(settings)
        self.signer = Signer.of(settings.data_dir)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`: send on each ring of work, and look at least every second."""
        free = threading.Semaphore(AT_ONCE)

        def settled(sending: Future[None]) -> None:
            free.release()
            error = sending.exception()
            if error:  # the webhook stays in the outbox and is due again when its sender's time is up
                log.error("webhook not settled", exc_info=error)

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as pool:
            for _ in self.queue.rings("work"):
                if stop.is_set():
                    return
                while free.acquire(blocking=False):
                    webhook = self.next()
                    if webhook is None:
                        free.release()
                        break
                    pool.submit(self.send, webhook).add_done_callback(settled)

    def next(self) -> Webhook | None:
        """A webhook to send now, if there is one and the database answers."""
        try:
            return next(iter(self.queue.due_webhooks(most=1)), None)
        except SQLAlchemyError:
            log.exception("the outbox cannot be read")
            return None

    def send(self, webhook: Webhook) -> None:
        """Deliver one webhook, and record what became of it."""
        job = self.queue.get(webhook.job_id)
        if job is None:
            self.queue.webhook_failed(webhook, "the request is no longer stored", None)
            return
        try:
            status = asyncio.run(self.post(webhook, job))
        except Refused as refusal:
            self.failed(webhook, str(refusal))
        except (httpx2.HTTPError, TimeoutError) as error:
            self.failed(webhook, type(error).__name__)
        else:
            self.answered(webhook, status)

    def answered(self, webhook: Webhook, status: int) -> None:
        if 200 <= status < 300:
            self.queue.webhook_delivered(webhook)
            log.info("webhook delivered", request_id=webhook.job_id, tries=webhook.tries)
        elif 300 <= status < 400:  # final on fal, too: a redirect is how an attacker would turn us inwards
            self.queue.webhook_failed(webhook, f"answered {status}", None)
            log.warning("webhook given up", request_id=webhook.job_id, reason=f"answered {status}")
        else:
            self.failed(webhook, f"answered {status}")

    def failed(self, webhook: Webhook, reason: str) -> None:
        delay = RETRY_DELAYS_S[webhook.tries - 1] if webhook.tries <= len(RETRY_DELAYS_S) else None
        self.queue.webhook_failed(webhook, reason, delay)
        log.warning("webhook failed", request_id=webhook.job_id, reason=reason, tries=webhook.tries, retry_in_s=delay)

    async def post(self, webhook: Webhook, job: Job) -> int:
        """The receiver's HTTP status. Each try has a fresh timestamp and signature over the same body."""
        body = json.dumps(payload(job), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        headers = self.signer.headers(job.id, job.owner, body, int(time.time()))
        timeout_s = FIRST_TIMEOUT_S if webhook.tries == 1 else LATER_TIMEOUT_S
        url = parse_url(webhook.url)
        async with asyncio.timeout(timeout_s), self.outbound.client() as client:
            target = pinned(url, await self.outbound.resolve(url))
            target["headers"] |= headers | {"Content-Type": "application/json", "User-Agent": "veraicon"}
            async with client.stream("POST", **target, content=body) as response:
                return response.status_code
