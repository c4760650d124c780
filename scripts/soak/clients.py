"""Clients: each brings one order, waits for it as fal's clients do, fetches the result and its pictures."""

import hashlib
import time
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from scripts.soak.door import Door, GaveUp
from scripts.soak.orders import Order
from scripts.soak.receipts import Fetched, Receipt
from tests.wire import Answer

POLL_S = 0.3
PNG = b"\x89PNG\r\n\x1a\n"


class Trouble(Exception):
    """The client was told what no client should be told."""


@dataclass(frozen=True)
class Client:
    """A client of the site behind `door`; its webhooks shall arrive at `hooks`/KEY."""

    door: Door
    hooks: str

    def bring(self, order: Order) -> Receipt:
        """Submit an order and see it through."""
        receipt = Receipt(order.key, order.kind, order.webhook)
        try:
            told = self.submit(order)
            receipt = replace(receipt, request_ids=(told["request_id"],), path=urlsplit(told["response_url"]).path)
            if order.twice:
                receipt = replace(receipt, request_ids=(*receipt.request_ids, self.submit(order)["request_id"]))
            if order.kind == "cancelled":
                time.sleep(order.pause_s)
                expect(self.door.ask("PUT", urlsplit(told["cancel_url"]).path), 202, 400)
            self.wait(order, urlsplit(told["status_url"]).path)
            return replace(receipt, fetched=(self.fetch(receipt.path),))
        except (GaveUp, Trouble) as error:
            return replace(receipt, trouble=str(error))

    def submit(self, order: Order) -> dict[str, str]:
        """The submit's answer. Sent again with the same key until there is one."""
        headers = {"Idempotency-Key": order.key}
        if order.kind == "low":
            headers["X-Fal-Queue-Priority"] = "low"
        query = f"?fal_webhook={self.hooks}/{order.key}" if order.webhook else ""
        return expect(self.door.ask("POST", f"/{order.endpoint}{query}", order.body, headers=headers), 200).json

    def wait(self, order: Order, path: str) -> None:
        """Poll until the job is done. Raises Trouble when it failed for a reason that is not in the order."""
        while True:
            seen = expect(self.door.ask("GET", path), 200, 202).json
            if seen["status"] == "COMPLETED":
                break
            if time.monotonic() > self.door.gives_up_at:
                raise GaveUp(f"it was still {seen['status']} when its client's patience ended")
            time.sleep(POLL_S)
        if order.kind in {"plain", "low"} and "error_type" in seen:
            raise Trouble(f"it ended as {seen['error_type']}")

    def fetch(self, path: str) -> Fetched:
        """A result with its pictures."""
        answer = self.door.ask("GET", path)
        pictures = answer.json["images"] if answer.status == 200 else []
        return Fetched(answer.status, digest(answer.body), dict(self.picture(one["url"]) for one in pictures))

    def picture(self, url: str) -> tuple[str, str]:
        """A picture's file id and digest."""
        parts = urlsplit(url)
        content = expect(self.door.ask("GET", parts.path, host=parts.netloc), 200).body
        if not content.startswith(PNG):
            raise Trouble(f"{parts.path} is no PNG")
        return parts.path.rpartition("/")[2], digest(content)

    def fetch_again(self, receipt: Receipt) -> Receipt:
        """The receipt with one more fetch of the same result."""
        try:
            return replace(receipt, fetched=(*receipt.fetched, self.fetch(receipt.path)))
        except (GaveUp, Trouble) as error:
            return replace(receipt, trouble=f"fetched again, {error}")


def expect(answer: Answer, *statuses: int) -> Answer:
    """The answer. Raises Trouble for any other status: a 404 for what was acknowledged, for instance."""
    if answer.status not in statuses:
        raise Trouble(f"its client was told {answer.status}: {answer.body[:200]!r}")
    return answer


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
