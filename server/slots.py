"""Slots: how many webhooks are sent at once, and to whom, so that receivers that hang hold up only one another."""

import threading
from collections import Counter, OrderedDict

from server.queue.job import Webhook

AT_ONCE, AT_ONCE_PER_HOST, AT_ONCE_DOUBTFUL = 32, 4, 16
"""Second tries, which may take long, and receivers that hung at their latest try share the doubtful slots: one that is
new, or that answers, finds the others free."""
MOST_DOUBTED = 1000
"""Receivers remembered that hung; an older one is trusted again, until its next try."""


class Slots:
    """What one sender has in hand; safe to share between threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_hand: set[Webhook] = set()
        self._doubtful: set[Webhook] = set()
        self._hung: OrderedDict[str, None] = OrderedDict()

    @property
    def full(self) -> bool:
        with self._changed:
            return len(self._in_hand) >= AT_ONCE

    def refused(self) -> tuple[list[str], bool]:
        """Hosts that get no more webhooks now, and whether only first tries may be sent now."""
        with self._changed:
            in_hand = Counter(webhook.host for webhook in self._in_hand)
            full = [host for host, number in in_hand.items() if number >= AT_ONCE_PER_HOST]
            crowded = len(self._doubtful) >= AT_ONCE_DOUBTFUL
            return [*full, *self._hung] if crowded else full, crowded

    def take(self, webhook: Webhook) -> None:
        """It is being sent from now on, until `give`."""
        with self._changed:
            self._in_hand.add(webhook)
            if webhook.tries - webhook.spared > 1 or webhook.host in self._hung:
                self._doubtful.add(webhook)

    def give(self, webhook: Webhook) -> None:
        with self._changed:
            self._doubtful.discard(webhook)
            self._in_hand.discard(webhook)
            self._changed.notify_all()

    def left(self, within_s: float) -> list[Webhook]:
        """What is still being sent when nothing is any more, or after `within_s`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_hand, within_s)
            return list(self._in_hand)

    def judge(self, host: str, *, hung: bool) -> None:
        """Remember how a receiver's latest try went."""
        with self._changed:
            self._hung.pop(host, None)
            if hung:
                self._hung[host] = None
            if len(self._hung) > MOST_DOUBTED:
                self._hung.popitem(last=False)
