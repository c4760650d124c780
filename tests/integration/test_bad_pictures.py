"""Pictures and names that the models cannot use, through the whole server on the tiny weights (faults.md)."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from tests.pictures import data_uri, encoded
from tests.server_process import ROOT, ServerProcess
from tests.wire import RUN, Answer
from tests.wire_checks import assert_is_validation_error

INSTANTID, PULID = "fal-ai/instantid/lcm", "fal-ai/pulid"
FACE = data_uri((ROOT / "scripts" / "data" / "astronaut.png").read_bytes())
CAT = data_uri((ROOT / "tests" / "data" / "chelsea.png").read_bytes())
FEW_STEPS = {"prompt": "portrait", "num_inference_steps": 1, "seed": 7}
SMALL = FEW_STEPS | {"image_size": {"width": 256, "height": 256}}


Ask = Callable[[str, dict[str, Any]], Answer]


@pytest.fixture
def ask(tiny_server: ServerProcess) -> Ask:
    return lambda endpoint, body: tiny_server.wire.post(f"/{endpoint}", body, host=RUN)


def refused_for_its_face(answer: Answer, *loc: str | int) -> None:
    assert_is_validation_error(answer, ["body", *loc], "face_detection_error", "image_too_small")


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_a_picture_too_thin_for_a_face_is_422(ask, size):
    """row 63."""
    photo = data_uri(encoded(Image.new("RGB", size, "white")))
    refused_for_its_face(ask(INSTANTID, FEW_STEPS | {"face_image_url": photo}), "face_image_url")
    refused_for_its_face(
        ask(PULID, SMALL | {"reference_images": [{"image_url": photo}]}), "reference_images", 0, "image_url"
    )


def test_a_photo_without_a_face_is_422_naming_it(ask):
    """row 72."""
    refused_for_its_face(ask(INSTANTID, FEW_STEPS | {"face_image_url": CAT}), "face_image_url")


def test_the_larger_of_two_faces_is_the_one(ask, tiny_server):
    """row 72: beside a face of half its size, the larger one alone decides the picture."""
    photo = Image.open(ROOT / "scripts" / "data" / "astronaut.png").convert("RGB").resize((256, 256))
    pictures = []
    for other in ("no face", "a small face"):
        both = Image.new("RGB", (512, 256), "grey")
        both.paste(photo, (0, 0))
        if other == "a small face":
            both.paste(photo.resize((128, 128)), (320, 64))
        answer = ask(PULID, SMALL | {"reference_images": [{"image_url": data_uri(encoded(both))}]})
        assert answer.status == 200
        pictures.append(answer.json["images"][0]["url"])
    first, second = (Image.open(io.BytesIO(tiny_server.wire.follow(url).body)) for url in pictures)
    assert first.tobytes() == second.tobytes()


def test_one_faceless_photo_of_four_is_named(ask):
    """row 73."""
    references = [{"image_url": photo} for photo in (FACE, FACE, CAT, FACE)]
    refused_for_its_face(ask(PULID, SMALL | {"reference_images": references}), "reference_images", 2, "image_url")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "https://example.com/model.safetensors", "base\0", "..", ".", "bases/x"]
)
def test_a_base_model_is_a_registered_name_and_nothing_else(ask, name):
    """row 79."""
    answer = ask(INSTANTID, FEW_STEPS | {"face_image_url": FACE, "model_name": name})
    assert_is_validation_error(answer, ["body", "model_name"], "one_of")
