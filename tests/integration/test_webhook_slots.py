"""Receivers of webhooks that hang hold up one another, never one that is new or answers."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server import slots, webhooks
from server.queue.job import Webhook
from server.settings import Settings
from server.slots import Slots
from server.webhooks import Sender
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.wire_receiver import Receiver
from tests.worker_process import Site, eventually

HANGING = 8
"""Receivers, four webhooks at once each: as many as all senders together."""


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.queue.close()


class Silent:
    """Receivers that accept, and never answer; `calls` so far."""

    def __init__(self, number: int) -> None:
        self.doors = [socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(number)]
        self.urls = [f"http://127.0.0.1:{door.getsockname()[1]}/" for door in self.doors]
        self._accepted: list[socket.socket] = []
        for door in self.doors:
            door.setblocking(False)

    @property
    def calls(self) -> int:
        for door in self.doors:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._accepted.append(door.accept()[0])
        return len(self._accepted)

    def close(self) -> None:
        """Hang up on every caller, so that no sender waits any longer."""
        for one in [*self.doors, *self._accepted]:
            one.close()


@contextmanager
def sending(site: Site) -> Iterator[Sender]:
    sender, stop = Sender(site.queue, Settings(data_dir=site.folder, **site.settings)), threading.Event()
    thread = threading.Thread(target=sender.run, args=(stop,))
    thread.start()
    try:
        yield sender
    finally:
        stop.set()
        thread.join()


def finished(site: Site, url: str) -> None:
    terms = {"owner": "studio", "base_url": "http://host", "webhook": url}
    site.queue.put(BLUE_SQUARE.id, {"prompt": "x"}, finished=(200, {"images": [], "seed": 1}, None), **terms)


def outcomes(sender: Sender) -> set[str]:
    [family] = [family for family in sender.metrics.samples() if family["name"] == "veraicon_webhook_deliveries"]
    return {labels["outcome"] for _, labels, _ in family["samples"]}


def test_eight_receivers_that_hang_leave_room_for_one_that_answers(site, monkeypatch):
    """The fault of row 45: their second tries, of two minutes each, share half of the senders."""
    monkeypatch.setattr(webhooks, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(webhooks, "FIRST_TIMEOUT_S", 0.5)
    monkeypatch.setattr(webhooks, "RETRY_DELAYS_S", (0.05,) * 10)
    with sending(site) as sender, Receiver() as answering, contextlib.closing(Silent(HANGING)) as silent:
        for url in silent.urls * 6:
            finished(site, url)
        eventually(lambda: sender.slots.refused()[1] and silent.calls >= slots.AT_ONCE_DOUBTFUL)
        finished(site, answering.url)
        answering.wait()
        eventually(lambda: "delivered" in outcomes(sender))
    assert "retried" in outcomes(sender)


def test_a_receiver_that_hung_is_doubted_until_it_answers():
    slots_ = Slots()
    slots_.judge("slow:80", hung=True)
    for number in range(slots.AT_ONCE_DOUBTFUL):
        slots_.take(Webhook(number, "id", "http://x", tries=2, spared=0, host=f"host-{number}"))
    assert slots_.refused() == (["slow:80"], True)
    slots_.judge("slow:80", hung=False)
    assert slots_.refused() == ([], True)
    slots_.give(Webhook(0, "id", "http://x", tries=2, spared=0, host="host-0"))
    assert slots_.refused() == ([], False)


def test_one_receiver_has_its_share_only():
    slots_ = Slots()
    for number in range(slots.AT_ONCE_PER_HOST):
        slots_.take(Webhook(number, "id", "http://x", tries=1, spared=0, host="busy:80"))
    assert slots_.refused() == (["busy:80"], False)
