"""The published schemas, on the wire: fal-protocol.md §8, §10 statements 78 and 94–104."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import as_data_uri
from tests.wire import RUN
from tests.wire_checks import assert_is_validation_error

PULID, INSTANTID = "/fal-ai/pulid", "/fal-ai/instantid/lcm"
IMAGE_KEYS = {"url", "content_type", "file_name", "file_size", "width", "height"}
TESTS = Path(__file__).parent.parent
PRESETS = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
STYLES = [
    "(No style)",
    "Headshot",
    "Spring Festival",
    "Watercolor",
    "Film Noir",
    "Neon",
    "Jungle",
    "Mars",
    "Vibrant Color",
    "Snow",
    "Line art",
]


@pytest.fixture(scope="session")
def astronaut() -> str:
    """A photo with one face."""
    return as_data_uri((TESTS.parent / "scripts" / "data" / "astronaut.png").read_bytes())


@pytest.fixture(scope="session")
def coffee() -> str:
    """A photo without a face."""
    return as_data_uri((TESTS / "data" / "coffee.png").read_bytes())


def pixels(wire, image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(wire.follow(image["url"]).body)))


def test_pulid_needs_a_prompt_and_reference_images_only(wire, photo):
    """94: and draws 768 x 1024 by default."""
    answer = wire.post(PULID, {"prompt": "portrait", "reference_images": [{"image_url": photo}]}, host=RUN)

    assert answer.status == 200
    assert len(answer.json["images"]) == 1
    assert (answer.json["images"][0]["width"], answer.json["images"][0]["height"]) == (768, 1024)
    missing = wire.post(PULID, {}, host=RUN)
    assert {tuple(error["loc"]) for error in missing.json["detail"]} == {
        ("body", "prompt"),
        ("body", "reference_images"),
    }


@pytest.mark.parametrize(
    ("field", "value", "type_"),
    [
        ("num_images", 9, "less_than_equal"),
        ("num_images", 0, "greater_than_equal"),
        ("guidance_scale", 1.6, "less_than_equal"),
        ("guidance_scale", 0.9, "greater_than_equal"),
        ("num_inference_steps", 13, "less_than_equal"),
        ("num_inference_steps", 0, "greater_than_equal"),
        ("id_scale", 0, "greater_than"),
        ("id_scale", 5.1, "less_than_equal"),
    ],
)
def test_pulid_refuses_what_is_out_of_range(wire, pulid_input, field, value, type_):
    """95."""
    assert_is_validation_error(wire.post(PULID, pulid_input | {field: value}, host=RUN), ["body", field], type_)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_images", 8), ("guidance_scale", 1), ("guidance_scale", 1.5), ("num_inference_steps", 12), ("id_scale", 5)],
)
def test_pulid_accepts_the_limits_themselves(wire, pulid_input, field, value):
    """95."""
    assert wire.post(PULID, pulid_input | {field: value}, host=RUN).status == 200


def test_pulid_spells_the_extreme_mode_as_fal_does(wire, pulid_input):
    """96."""
    assert wire.post(PULID, pulid_input | {"mode": "extreme style"}, host=RUN).status == 200
    refused = wire.post(PULID, pulid_input | {"mode": "extremely style"}, host=RUN)
    assert_is_validation_error(refused, ["body", "mode"], "literal_error", "enum", "one_of")


@pytest.mark.parametrize(("size", "expected"), [*PRESETS.items()])
def test_every_preset_has_its_size(wire, pulid_input, size, expected):
    """97: in the answer and in the file."""
    image = wire.post(PULID, pulid_input | {"image_size": size}, host=RUN).json["images"][0]

    assert (image["width"], image["height"]) == expected
    assert pixels(wire, image).shape == (expected[1], expected[0], 3)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"width": 1280, "height": 720}, (1280, 720)),
        ({"width": 640}, (640, 512)),
        ({"height": 640}, (512, 640)),
        ({}, (512, 512)),
    ],
)
def test_a_custom_size_is_kept_and_a_missing_side_is_512(wire, pulid_input, size, expected):
    """97, §8.1."""
    image = wire.post(PULID, pulid_input | {"image_size": size}, host=RUN).json["images"][0]

    assert (image["width"], image["height"]) == expected


@pytest.mark.parametrize("size", ["portrait", {"width": 0}, {"width": 14143}, {"width": "wide"}, 512, [512, 512]])
def test_a_size_that_is_none_is_422(wire, pulid_input, size):
    """97."""
    answer = wire.post(PULID, pulid_input | {"image_size": size}, host=RUN)

    assert answer.status == 422
    assert all(error["loc"][:2] == ["body", "image_size"] for error in answer.json["detail"])


@pytest.mark.parametrize("number", [1, 3])
def test_pulid_answers_images_and_seed(wire, pulid_input, number):
    """98."""
    answer = wire.post(PULID, pulid_input | {"num_images": number}, host=RUN).json

    assert set(answer) == {"images", "seed"}
    assert len(answer["images"]) == number
    assert len({image["url"] for image in answer["images"]}) == number
    for image in answer["images"]:
        assert set(image) == IMAGE_KEYS
        assert all(type(image[key]) is int for key in ("file_size", "width", "height"))


def test_the_same_seed_gives_the_same_pictures(wire, pulid_input):
    """99."""
    first, second, other = (
        wire.post(PULID, pulid_input | {"seed": seed, "num_images": 2}, host=RUN).json for seed in (42, 42, 43)
    )

    assert [first["seed"], second["seed"], other["seed"]] == [42, 42, 43]
    for one, two, three in zip(first["images"], second["images"], other["images"], strict=True):
        assert np.array_equal(pixels(wire, one), pixels(wire, two))
        assert not np.array_equal(pixels(wire, one), pixels(wire, three))


@pytest.mark.parametrize("endpoint", [PULID, INSTANTID])
def test_without_a_seed_one_is_drawn_and_echoed(wire, pulid_input, instantid_input, endpoint):
    """99, §8.3: below 2**32, so that JavaScript does not round it."""
    body = (pulid_input if endpoint == PULID else instantid_input) | {"seed": None}
    drawn = [wire.post(endpoint, body, host=RUN).json["seed"] for _ in range(2)]

    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in drawn)
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("endpoint", [PULID, INSTANTID])
def test_a_great_seed_comes_back_unrounded(wire, pulid_input, instantid_input, endpoint):
    """§8.3: fal's pages show 15860307465884635512."""
    body = (pulid_input if endpoint == PULID else instantid_input) | {"seed": 15860307465884635512}

    assert wire.post(endpoint, body, host=RUN).json["seed"] == 15860307465884635512


def test_instantid_needs_a_face_and_a_prompt_only_and_answers_one_image(wire, photo):
    """100, 102: `image` is singular."""
    answer = wire.post(INSTANTID, {"face_image_url": photo, "prompt": "man"}, host=RUN)
    missing = wire.post(INSTANTID, {}, host=RUN)

    assert answer.status == 200
    assert set(answer.json) == {"image", "seed"}
    assert set(answer.json["image"]) == IMAGE_KEYS
    assert answer.json["image"]["content_type"] == "image/png"
    assert {tuple(error["loc"]) for error in missing.json["detail"]} == {("body", "face_image_url"), ("body", "prompt")}


def test_instantid_takes_the_example_of_its_page(wire, instantid_input):
    """100."""
    example = {
        "prompt": "man",
        "style": "Headshot",
        "negative_prompt": "nsfw, lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, blurry",
        "num_inference_steps": 5,
        "guidance_scale": 1.5,
        "controlnet_selection": "canny",
        "controlnet_conditioning_scale": 0.4,
        "ip_adapter_scale": 0.7,
        "identity_controlnet_conditioning_scale": 0.7,
        "enhance_face_region": True,
        "seed": 42,
    }
    answer = wire.post(INSTANTID, instantid_input | example, host=RUN)

    assert answer.status == 200
    assert answer.json["seed"] == 42


@pytest.mark.parametrize("style", STYLES)
def test_every_published_style_is_accepted(wire, instantid_input, style):
    """101."""
    assert wire.post(INSTANTID, instantid_input | {"style": style}, host=RUN).status == 200


@pytest.mark.parametrize("selection", ["pose", "canny", "depth", None])
def test_every_published_controlnet_is_accepted(wire, instantid_input, selection):
    """101, §8.2: null is none."""
    assert wire.post(INSTANTID, instantid_input | {"controlnet_selection": selection}, host=RUN).status == 200


@pytest.mark.parametrize(
    ("field", "value"), [("style", "Oil"), ("style", "headshot"), ("controlnet_selection", "scribble")]
)
def test_a_value_outside_the_enums_is_422(wire, instantid_input, field, value):
    """101."""
    answer = wire.post(INSTANTID, instantid_input | {field: value}, host=RUN)

    assert_is_validation_error(answer, ["body", field], "literal_error", "enum", "one_of")


@pytest.mark.parametrize("text", ["", "ein Porträt, 肖像, 🙂", "x" * 20_000, "مرحبا", "(a:1.2) [b] \\ \n\t"])
def test_any_text_is_a_prompt(wire, instantid_input, text):
    """Never a 500: empty, long, not English."""
    answer = wire.post(INSTANTID, instantid_input | {"prompt": text, "negative_prompt": text}, host=RUN)

    assert answer.status in {200, 422}


def test_the_real_pulid_draws_from_a_data_uri_the_same_for_the_same_seed(tiny_server, astronaut):
    """78, 98, 99: the real code on tiny weights."""
    wire = tiny_server.wire
    size = {"width": 256, "height": 256}
    body = {"prompt": "portrait", "reference_images": [{"image_url": astronaut}], "image_size": size, "seed": 5}
    first, second, other = (
        wire.post(PULID, body | change, host=RUN, timeout_s=60).json for change in ({}, {}, {"seed": 6})
    )

    assert set(first) == {"images", "seed"}
    assert pixels(wire, first["images"][0]).shape == (256, 256, 3)
    assert np.array_equal(pixels(wire, first["images"][0]), pixels(wire, second["images"][0]))
    assert not np.array_equal(pixels(wire, first["images"][0]), pixels(wire, other["images"][0]))


def test_the_real_instantid_draws_from_a_data_uri_the_same_for_the_same_seed(tiny_server, astronaut):
    """78, 102."""
    wire = tiny_server.wire
    body = {"face_image_url": astronaut, "prompt": "man", "seed": 42}
    first, second = (wire.post(INSTANTID, body, host=RUN, timeout_s=60).json for _ in range(2))

    assert set(first) == {"image", "seed"}
    assert first["seed"] == 42
    assert max(first["image"]["width"], first["image"]["height"]) == 256
    assert np.array_equal(pixels(wire, first["image"]), pixels(wire, second["image"]))


def test_the_real_models_log_their_steps(tiny_server, astronaut):
    """0.3, 36: what the published snippet prints."""
    wire = tiny_server.wire
    request = wire.submit("fal-ai/instantid/lcm", {"face_image_url": astronaut, "prompt": "man"})
    status = wire.wait_for(request, "COMPLETED", query="?logs=1", limit_s=60)

    assert wire.result(request).status == 200
    assert len(status.json["logs"]) >= 1


def test_the_real_models_name_the_field_of_the_photo_without_a_face(tiny_server, astronaut, coffee):
    """103: and go on working."""
    wire = tiny_server.wire
    faceless = wire.post(INSTANTID, {"face_image_url": coffee, "prompt": "man"}, host=RUN, timeout_s=60)
    faces = [{"image_url": astronaut}, {"image_url": coffee}]
    half = wire.post(PULID, {"reference_images": faces, "prompt": "man"}, host=RUN, timeout_s=60)
    good = wire.post(INSTANTID, {"face_image_url": astronaut, "prompt": "man"}, host=RUN, timeout_s=60)

    assert_is_validation_error(faceless, ["body", "face_image_url"], "face_detection_error")
    assert_is_validation_error(half, ["body", "reference_images", 1, "image_url"], "face_detection_error")
    assert good.status == 200


def test_the_real_models_refuse_what_is_no_image(tiny_server):
    """104."""
    junk = as_data_uri(b"not a picture")
    answer = tiny_server.wire.post(INSTANTID, {"face_image_url": junk, "prompt": "man"}, host=RUN, timeout_s=60)

    assert_is_validation_error(answer, ["body", "face_image_url"], "image_load_error", "unsupported_image_format")
