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
        self._lock = threading.Lock()
        self._in_hand: Counter[str] = Counter()
        self._doubtful: set[int] = set()
        self._hung: OrderedDict[str, None] = OrderedDict()

    def refused(self) -> tuple[list[str], bool]:
        """Hosts that get no more webhooks now, and whether only first tries may be sent now."""
        with self._lock:
            full = [host for host, number in self._in_hand.items() if number >= AT_ONCE_PER_HOST]
            crowded = len(self._doubtful) >= AT_ONCE_DOUBTFUL
            return [*full, *self._hung] if crowded else full, crowded

    def take(self, webhook: Webhook) -> None:
        """It is being sent from now on, until `give`."""
        with self._lock:
            self._in_hand[webhook.host] += 1
            if webhook.tries - webhook.spared > 1 or webhook.host in self._hung:
                self._doubtful.add(webhook.id)

    def give(self, webhook: Webhook) -> None:
        with self._lock:
            self._doubtful.discard(webhook.id)
            self._in_hand[webhook.host] -= 1
            if not self._in_hand[webhook.host]:
                del self._in_hand[webhook.host]

    def judge(self, host: str, *, hung: bool) -> None:
        """Remember how a receiver's latest try went."""
        with self._lock:
            self._hung.pop(host, None)
            if hung:
                self._hung[host] = None
            if len(self._hung) > MOST_DOUBTED:
                self._hung.popitem(last=False)
