"""Fixtures of the fault rows: a served site, a photo with a face, scenes to direct, and the check after every test."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scene import Scene
from tests.faults.site import FaultSite

PHOTO = Path(__file__).parents[2] / "pipelines" / "selftest.jpg"
MAX_QUEUE = 300


@pytest.fixture(scope="session")
def face_photo() -> str:
    """NASA's portrait of Eileen Collins as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(PHOTO.read_bytes()).decode()}"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, face_photo: str) -> Iterator[FaultSite]:
    """One worker, two tries for each job; a file whose faults need other settings opens a site of its own."""
    folder = tmp_path_factory.mktemp("site")
    with FaultSite(folder, face_photo, max_queue=MAX_QUEUE, max_attempts=2) as site:
        yield site


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene.at(tmp_path / "scene")
    yield scene
    scene.release()


@pytest.fixture
def other_scene(tmp_path: Path) -> Iterator[Scene]:
    """For a second portrait, beside or after the first."""
    scene = Scene.at(tmp_path / "other-scene")
    yield scene
    scene.release()


@pytest.fixture(autouse=True)
def consistent(site: FaultSite) -> Iterator[None]:
    """After each fault: ready again, and nothing lost, nothing twice."""
    yield
    site.check()
