"""Fixtures that more than one folder of tests needs: real servers, and the gate that holds a job."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server_process import ServerProcess
from tests.wire import Wire
from tests.wire_gate import Gate

PUBLISHED = "tests.pipelines.published:CATALOG"


def as_data_uri(data: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="session")
def photo() -> str:
    """A small picture as a data URI: 96 x 64 pixels."""
    content = io.BytesIO()
    Image.new("RGB", (96, 64), (180, 140, 120)).save(content, "PNG")
    return as_data_uri(content.getvalue())


@pytest.fixture(scope="session")
def pulid_input(photo: str) -> dict[str, Any]:
    """A small valid request to fal-ai/pulid."""
    size = {"width": 256, "height": 256}
    return {"reference_images": [{"image_url": photo}], "prompt": "portrait", "image_size": size, "seed": 1}


@pytest.fixture(scope="session")
def instantid_input(photo: str) -> dict[str, Any]:
    """A small valid request to fal-ai/instantid/lcm."""
    return {"face_image_url": photo, "prompt": "man", "seed": 1}


@pytest.fixture(scope="session")
def painting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One plain-HTTP server without keys for the whole session: published schemas, painted; gate; characters."""
    folder = tmp_path_factory.mktemp("painting")
    with ServerProcess(folder, catalog=PUBLISHED, outbound="127.0.0.0/8", max_body_mb=4) as server:
        yield server


@pytest.fixture(scope="session")
def wire(painting_server: ServerProcess) -> Wire:
    return painting_server.wire


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The same over HTTPS, with a certificate of its own making."""
    folder = tmp_path_factory.mktemp("tls")
    with ServerProcess(folder, "serve", "--tls", catalog=PUBLISHED, outbound="127.0.0.0/8") as server:
        yield server


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The real catalog on the tiny weights."""
    folder = tmp_path_factory.mktemp("tiny")
    with ServerProcess(folder, max_side_px=256) as server:
        yield server


@pytest.fixture
def gate(wire: Wire, tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(wire, tmp_path / "gate")
    yield gate
    gate.close()


@pytest.fixture
def next_gate(wire: Wire, gate: Gate, tmp_path: Path) -> Iterator[Gate]:
    """A second gate, for a job that must be held when the first one is let go."""
    following = Gate(wire, tmp_path / "next-gate")
    yield following
    gate.open()
    following.close()
