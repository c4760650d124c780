"""One SQLite file, two kernels: the second host is refused, and takes over once the first one is silent."""

import socket
import subprocess
import sys
import threading
import time

import pytest

from server.queue import residence
from server.queue.residence import Residence, named
from server.queue.store import StoreError
from tests.conftest import PUBLISHED
from tests.server_process import ROOT, ServerProcess, environment

BOOT_ID = "/proc/sys/kernel/random/boot_id"
ELSEWHERE = "00000000-0000-4000-8000-000000000000"


def on_another_host(folder, *words):
    """What `veraicon` says where the kernel has another boot id and the machine another name."""
    other = folder / "boot_id"
    other.write_text(f"{ELSEWHERE}\n")
    script = f'mount --bind "{other}" {BOOT_ID} && hostname render-07 && exec "$@"'
    room = ["unshare", "--map-root-user", "--mount", "--uts", "sh", "-c", script, "sh"]
    return subprocess.run(
        [*room, sys.executable, "-m", "server.cli", *words],
        cwd=ROOT,
        env=environment(folder, catalog=PUBLISHED),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


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


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_second_host_is_refused_while_the_first_one_serves(api_at_home, command):
    """row 27: by name, saying what to do; the first one goes on."""
    done = on_another_host(api_at_home.data_dir, command)
    assert done.returncode == 1, f"{done.stderr}\nThis test needs namespaces: `unshare --map-root-user --mount --uts`"
    assert f"is being served by another host, {socket.gethostname()}" in done.stderr
    assert "PostgreSQL" in done.stderr
    assert "Traceback" not in done.stderr
    assert api_at_home.wire.get("/ready", host=None).status == 503  # no worker, as before
    assert api_at_home.process.poll() is None


@pytest.fixture(scope="module")
def api_at_home(tmp_path_factory):
    with ServerProcess(tmp_path_factory.mktemp("home"), "api", catalog=PUBLISHED) as server:
        yield server


def test_a_host_whose_queue_was_taken_over_stops(tmp_path):
    """row 27: it was asleep, as a suspended virtual machine is, while another one began to serve."""
    with ServerProcess(tmp_path, "api", catalog=PUBLISHED) as server:
        home = Residence(f"sqlite:///{tmp_path / 'queue.db'}")
        taken = home.file.read_bytes().replace(home._boot.encode(), ELSEWHERE.encode())
        deadline = time.monotonic() + 20
        while server.process.poll() is None:
            home.file.write_bytes(taken)
            time.sleep(0.3)
            assert time.monotonic() < deadline, server.log
        assert "another host serves this queue now" in server.log


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
    beating = threading.Thread(target=home.keep, args=(stop,))
    beating.start()
    with pytest.raises(StoreError, match="another host"):
        elsewhere.move_in()
    stop.set()
    beating.join()
    elsewhere.move_in()
    assert named(home.file.read_bytes(), "host") == "render-07"
    assert not home.beat()
    home.keep(stopped := threading.Event())
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
    everywhere.keep(threading.Event())
