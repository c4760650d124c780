"""docs/add-a-model.md, followed to the letter: a third model beside the two, served by an unchanged server."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import as_data_uri
from tests.server_process import ServerProcess
from tests.wire import RUN
from weights.manifest import read_manifest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^`(?P<file>[\w/.]+)`(?P<append>, at the end)?\n\n```\w+\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def steps() -> list[re.Match[str]]:
    """The page's files, in order."""
    return list(BLOCK.finditer((ROOT / "docs/add-a-model.md").read_text("utf-8")))


def open_folder(folder: Path) -> None:
    """Make a folder that is a link to ours a folder of its own, whose entries are links."""
    if folder.is_symlink():
        ours = folder.readlink()
        folder.unlink()
        folder.mkdir()
        for entry in ours.iterdir():
            if entry.name != "__pycache__":
                (folder / entry.name).symlink_to(entry)
    folder.mkdir(exist_ok=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project with the page's files in it; everything else is linked."""
    root = tmp_path_factory.mktemp("project")
    for room in ("server", "pipelines", "weights"):
        (root / room).symlink_to(ROOT / room)
    for step in steps():
        file = root / step["file"]
        for folder in reversed(file.relative_to(root).parents[:-1]):
            open_folder(root / folder)
        before = file.read_text("utf-8") if step["append"] else ""
        file.unlink(missing_ok=True)
        file.write_text(before + step["text"], "utf-8")
    return root


@pytest.fixture(scope="module")
def server(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("data"), max_side_px=256)
    server.root = project
    with server:
        yield server


def test_the_page_adds_six_files_and_none_to_the_server() -> None:
    assert [step["file"] for step in steps()] == [
        "pipelines/duotone/__init__.py",
        "pipelines/duotone/endpoint.py",
        "pipelines/duotone/pipeline.py",
        "pipelines/catalog.py",
        "weights/manifest.toml",
        "weights/tiny/duotone/colours.json",
    ]


def test_the_model_answers_beside_the_two(server: ServerProcess) -> None:
    photo = Image.fromarray(np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8))
    content = io.BytesIO()
    photo.save(content, "PNG")
    body = {"image_url": as_data_uri(content.getvalue())}

    queued = server.wire.submit("example/duotone", body)
    made = server.wire.finish(queued).json
    drawn = Image.open(io.BytesIO(server.wire.follow(made["image"]["url"]).body))
    assert drawn.size == photo.size
    assert (drawn.getpixel((0, 0)), drawn.getpixel((63, 63))) == ((20, 20, 60), (250, 230, 200))

    refused = server.wire.post("/example/duotone", body | {"contrast": 2}, host=RUN)
    assert (refused.status, refused.json["detail"][0]["loc"]) == (422, ["body", "contrast"])
    for endpoint in ("fal-ai/pulid", "fal-ai/instantid/lcm"):
        assert server.wire.post(f"/{endpoint}", {}, host=RUN).status == 422


def test_the_manifest_still_reads_and_knows_it(project: Path) -> None:
    (file,) = read_manifest(project / "weights/manifest.toml")["duotone"].files
    assert (project / "weights/tiny" / file.target).is_file()
