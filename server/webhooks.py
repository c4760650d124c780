"""Webhooks: tell a client's server that its request is finished; signed, retried (fal-protocol.md §7)."""

import asyncio
import json
import socket
import threading
import time
from typing import Any
from urllib.parse import quote

import httpx2
import structlog
from sqlalchemy.exc import SQLAlchemyError

from server import bodies
from server.bulletin import Bulletin
from server.errors import RequestError
from server.metrics import WebhookMetrics
from server.outbound import Outbound, Refused, check, parse_url, pinned
from server.queue.job import Job, Webhook
from server.queue.queue import Queue
from server.settings import Settings
from server.signing import Signer
from server.slots import Slots

FIRST_TIMEOUT_S, LATER_TIMEOUT_S = 15, 120
RETRY_DELAYS_S = (5, 15, 60, 120, 300, 600, 900, 1200, 1500, 1800)
"""Ten retries within two hours, as fal's documentation promises."""
LOOK_EVERY_S = 1.0
LEAVES_S = 5.0
"""Time for the tries in hand when the process is to stop."""

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


def payload(job: Job) -> dict[str, Any]:
    """What a webhook says about a finished job."""
    status = job.http_status or 500
    told: dict[str, Any] = {"request_id": job.id, "gateway_request_id": job.id}
    if status < 400:
        return {**told, "status": "OK", "payload": bodies.result(job)}
    return {**told, "status": "ERROR", "error": f"Invalid status code: {status}", "payload": bodies.result(job)}


def body_of(job: Job) -> bytes:
    """The webhook's body, the same at each try. A result that is no JSON is told as `payload_error` (§7)."""
    told = payload(job)
    try:
        return as_json(told)
    except ValueError as error:
        reason = f"Response payload is not JSON serializable. {error}"
        return as_json({**told, "payload": None, "payload_error": reason})


def as_json(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


class Loop(asyncio.SelectorEventLoop):
    """For one conversation, which may block it: names are looked up in no other thread, which the exit would await."""

    async def getaddrinfo(self, *where: Any, **hints: Any) -> Any:
        return socket.getaddrinfo(*where, **hints)


class Sender:
    """Sends what is due in the queue's outbox. Any number of processes may run one."""

    def __init__(self, queue: Queue, settings: Settings) -> None:
        self.queue, self.outbound = queue, Outbound.of(settings)
        self.signer, self.metrics, self.slots = Signer(queue.vault), WebhookMetrics(), Slots()
        name = f"{settings.worker_name or socket.gethostname()}:webhooks"
        self._bulletin = Bulletin(queue.measures, name, self.metrics.samples, settings.heartbeat_s)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`: send on each ring of work, and look at least every second. Ends `LEAVES_S` after `stop`."""
        for _ in self.queue.rings("work", LOOK_EVERY_S):
            if stop.is_set():
                break
            self._bulletin.post()
            while not (stop.is_set() or self.slots.full) and (webhook := self.next()):
                self.slots.take(webhook)
                # Daemons: a receiver that hangs, or a name server, must not keep the process from its end.
                threading.Thread(target=self.send_safely, args=(webhook,), name="webhook", daemon=True).start()
        self.leave()
        self._bulletin.withdraw()

    def leave(self) -> None:
        """Wait for the tries in hand, but not long; others, or this server's next start, do the rest over again."""
        for webhook in self.slots.left(LEAVES_S):
            try:
                self.queue.webhook_handed_back(webhook)
            except SQLAlchemyError as error:  # the others are due again when their sender's time is up, as after a kill
                log.warning("the outbox cannot be written", error=type(error).__name__)
                return
            log.warning("webhook not sent before the stop: it is due again at once", request_id=webhook.job_id)

    def next(self) -> Webhook | None:
        """A webhook to send now, if there is one for a receiver that has not its share, and the database answers."""
        busy, first_tries = self.slots.refused()
        try:
            return next(iter(self.queue.due_webhooks(1, busy, first_tries=first_tries)), None)
        except SQLAlchemyError as error:
            log.warning("the outbox cannot be read", error=type(error).__name__)
            return None

    def send_safely(self, webhook: Webhook) -> None:
        """`send`; what goes wrong is logged, and the webhook is due again when its sender's time is up."""
        try:
            self.send(webhook)
        except Exception as error:
            log.error("webhook not settled", request_id=webhook.job_id, exc_info=error)
        finally:
            self.slots.give(webhook)

    def send(self, webhook: Webhook) -> None:
        """Deliver one webhook, and record what became of it."""
        job = self.queue.get(webhook.job_id)
        if job is None:
            self.queue.webhook_failed(webhook, "the request is no longer stored", None)
            self.metrics.deliveries.labels("given_up").inc()
            return
        began, status, reason, hung = time.monotonic(), None, None, False
        try:
            with asyncio.Runner(loop_factory=Loop) as runner:
                status = runner.run(self.post(webhook, job))
        except Refused as refusal:
            reason = str(refusal)
        except (httpx2.HTTPError, TimeoutError) as error:
            reason, hung = type(error).__name__, isinstance(error, TimeoutError | httpx2.TimeoutException)
        seconds = time.monotonic() - began
        self.slots.judge(webhook.host, hung=hung)
        self.metrics.attempts.observe(seconds)
        self.queue.deliveries.add(job.id, status, reason, seconds)
        self.settle(webhook, status, reason or f"answered {status}")

    def settle(self, webhook: Webhook, status: int | None, reason: str) -> None:
        """Delivered, or to be sent again, or given up."""
        about = {"request_id": webhook.job_id, "tries": webhook.tries}
        if status is not None and 200 <= status < 300:
            self.queue.webhook_delivered(webhook)
            self.metrics.deliveries.labels("delivered").inc()
            log.info("webhook delivered", **about)
            return
        # A redirect is final on fal, too: it is how an attacker would turn us inwards.
        delay = None if status is not None and 300 <= status < 400 else retry_delay(webhook)
        self.queue.webhook_failed(webhook, reason, delay)
        self.metrics.deliveries.labels("given_up" if delay is None else "retried").inc()
        log.warning("webhook failed", reason=reason, retry_in_s=delay, **about)

    async def post(self, webhook: Webhook, job: Job) -> int:
        """The receiver's HTTP status. Each try has a fresh timestamp and signature over the same body."""
        body = body_of(job)
        headers = self.signer.headers(job.id, user_id(job.owner), body, int(time.time()))
        timeout_s = FIRST_TIMEOUT_S if webhook.tries - webhook.spared == 1 else LATER_TIMEOUT_S
        url = parse_url(webhook.url)
        async with asyncio.timeout(timeout_s), self.outbound.client() as client:
            target = pinned(url, await self.outbound.resolve(url))
            target["headers"] |= headers | {"Content-Type": "application/json", "User-Agent": "veraicon"}
            async with client.stream("POST", **target, content=body) as response:
                return response.status_code


def user_id(owner: str) -> str:
    """What receivers know the owner by: its name, percent-encoded where a header could not hold it."""
    return quote(owner, safe="@+")


def retry_delay(webhook: Webhook) -> float | None:
    """Seconds until the next try; None when there were enough."""
    tries = webhook.tries - webhook.spared
    return RETRY_DELAYS_S[tries - 1] if tries <= len(RETRY_DELAYS_S) else None
