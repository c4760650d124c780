"""The notebook page's code runs as it stands, and does what the page says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def notebook() -> dict[str, Any]:
    """What the page's blocks define, run in order from the repository's root."""
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for block in BLOCK.findall((ROOT / "docs" / "notebook.md").read_text()):
            exec(block, names)
    return names


def test_both_pipelines_make_pictures(notebook):
    assert [picture.size for picture in notebook["pictures"]] == [(128, 128)]
    assert [portrait.size for portrait in notebook["portraits"]] == [(128, 128)] * 2
    assert all(isinstance(picture, Image.Image) for picture in notebook["pictures"] + notebook["portraits"])


def test_the_callback_sees_every_step(notebook):
    assert notebook["steps"] == [f"step {step} of 4" for step in (1, 2, 3, 4)]


def test_latents_come_instead_of_pictures(notebook):
    [latents] = notebook["latents"]
    assert (latents.shape, latents.dtype) == ((4, 16, 16), torch.float32)


def test_the_faces_of_one_photo_are_alike(notebook):
    assert -1 <= notebook["cosine"](notebook["face"].embedding, notebook["other"].embedding) <= 1
    assert notebook["cosine"](notebook["face"].embedding, notebook["face"].embedding) == 1
