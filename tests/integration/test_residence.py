"""One SQLite file, two kernels: the second host is refused, and takes over once the first one is silent."""

import threading
import time

import pytest

from server.queue import residence
from server.queue.residence import Residence, named
from server.queue.store import StoreError
from tests.foreign_host import ELSEWHERE


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'queue.db'}"


@pytest.fixture
def elsewhere(url, monkeypatch):
    """The same queue as another kernel sees it."""
    other = Residence(url)
    monkeypatch.setattr(other, "_boot", ELSEWHERE)
    monkeypatch.setattr(other, "_host", "render-07")
    return other


def test_a_restart_on_the_same_kernel_costs_nothing(url):
    Residence(url).move_in()
    began = time.monotonic()
    Residence(url).move_in()
    assert time.monotonic() - began < residence.WATCH_S / 2


def test_a_silent_host_is_followed_and_a_beating_one_is_not(url, elsewhere, monkeypatch):
    monkeypatch.setattr(residence, "WATCH_S", 1.0)
    monkeypatch.setattr(residence, "BEAT_S", 0.05)
    home, stop = Residence(url), threading.Event()
    home.move_in()
    beating = threading.Thread(target=home.keep, args=(stop, stop.set))
    beating.start()
    with pytest.raises(StoreError, match="another host"):
        elsewhere.move_in()
    stop.set()
    beating.join()
    elsewhere.move_in()
    assert named(home.file.read_bytes(), "host") == "render-07"
    assert not home.beat()
    home.keep(stopped := threading.Event(), stopped.set)
    assert stopped.is_set()


def test_a_stamp_that_cannot_be_read_is_watched_like_another_hosts(url, monkeypatch):
    monkeypatch.setattr(residence, "WATCH_S", 0.3)
    home = Residence(url)
    home.file.write_bytes(b"\0" * residence.SIZE)
    home.move_in()
    assert home.beat()


def test_a_stamp_that_somebody_deleted_is_written_again(url):
    home = Residence(url)
    home.move_in()
    home.file.unlink()
    assert home.beat()
    assert named(home.file.read_bytes(), "boot") == home._boot


def test_postgresql_has_room_for_every_host():
    everywhere = Residence("postgresql+psycopg://nobody@127.0.0.1:1/none")
    everywhere.move_in()
    everywhere.keep(threading.Event(), pytest.fail)
