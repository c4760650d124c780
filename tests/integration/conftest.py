"""Fixtures of the queue's, the worker's and the supervisor's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from server.queue.migrations import create_tables
from server.queue.queue import Queue
from tests.databases import STORES, PostgreSQL, running_postgresql
from tests.hub import Hub, running_hub
from tests.integration.sealing import Sealed, make_wheelhouse, seal
from tests.tiny_hub import tiny_hub, tiny_manifest

LEASE_S = 0.6

# Here, because pytest reads --hypothesis-profile before it reads the tests.
settings.register_profile(
    "long", max_examples=1500, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    with running_postgresql(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(params=STORES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.db'}"
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture
def open_queue(database_url: str) -> Iterator[Callable[[], Queue]]:
    """Opens the same database again and again, as the processes of one server do."""
    opened: list[Queue] = []

    def open_one() -> Queue:
        create_tables(database_url)
        opened.append(Queue(database_url, lease_s=LEASE_S, max_attempts=3))
        return opened[-1]

    yield open_one
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(open_queue: Callable[[], Queue]) -> Queue:
    return open_queue()


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete wheelhouse with the wheel of this working tree; read only."""
    return make_wheelhouse(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="session")
def sealed(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """The application as it was installed, from a bundle, in a room without network; read only."""
    return seal(wheelhouse, tmp_path_factory.mktemp("sealed"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of this machine with the tiny weights; nobody is logged in to any other."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with running_hub(tiny_hub()) as hub:
        yield hub


@pytest.fixture
def manifest(hub: Hub, tmp_path: Path) -> Path:
    """Ours, with the tiny files' facts and the hub's release page."""
    return tiny_manifest(tmp_path / "manifest.toml", hub.url)
