"""What comes with a picture: its similarity to the person, the parameters in its file; and cancel on real pipelines."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.errors import Cancelled
from pipelines.instantid.endpoint import InstantIDRequest
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline
from tests.conftest import as_data_uri
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.pipelines.measured import MEASURED
from tests.worker_process import Site, eventually
from weights.store import tiny_root

PHOTO = Path(__file__).parents[2] / "scripts" / "data" / "astronaut.png"
ASTRONAUT = as_data_uri(PHOTO.read_bytes())
WISH = "a résumé photo in the 雪 ☃\nwith “quotes”"
SMALL = {"width": 256, "height": 256}
PULID = {"reference_images": [{"image_url": ASTRONAUT}] * 2, "prompt": WISH, "image_size": SMALL, "seed": 1}
INSTANTID = {"face_image_url": ASTRONAUT, "prompt": WISH, "num_inference_steps": 1}


def picture_of(wire, result):
    """The first picture behind a result, and its file."""
    body = result.json
    image = body["images"][0] if "images" in body else body["image"]
    data = wire.follow(image["url"]).body
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture, data


# Similarity


def test_a_measured_number_is_in_the_status_and_one_that_failed_is_null(wire):
    """28: one number per picture, beside the inference time; the picture is there all the same."""
    request = wire.submit(MEASURED.id, {"prompt": "x"})
    result = wire.finish(request)
    for _ in range(2):
        metrics = wire.status(request).json["metrics"]
        assert metrics.pop("inference_time") >= 0
        assert metrics == {"blueness": [0.75], "warmth": [None]}
    assert (result.status, set(result.json)) == (200, {"images", "seed"})


def test_metrics_of_unfinished_and_of_failed_requests_hold_no_similarity(wire, gate):
    assert wire.status(gate.run()).json["metrics"] == {}
    gate.open()
    refused = wire.submit("fal-ai/pulid", {})
    assert set(wire.wait_for(refused, "COMPLETED").json["metrics"]) == {"inference_time"}


def test_noise_has_no_face_to_be_like_anybody_in_either_model(tiny_server):
    wire = tiny_server.wire
    several = wire.submit("fal-ai/pulid", {**PULID, "num_images": 2, "num_inference_steps": 1})
    single = wire.submit("fal-ai/instantid/lcm", INSTANTID)
    assert wire.finish(several).status == wire.finish(single).status == 200
    assert wire.status(several).json["metrics"]["identity_similarity"] == [None, None]
    assert wire.status(single).json["metrics"]["identity_similarity"] is None


# Parameters in the PNG


def test_a_picture_tells_how_it_was_made_but_not_of_whom(wire):
    result = wire.finish(wire.submit("fal-ai/pulid", PULID | {"seed": None, "num_images": 2}))
    picture, data = picture_of(wire, result)
    told = json.loads(picture.text["parameters"])

    assert set(told) == {"endpoint", "veraicon", "seed", "input"}
    assert told["endpoint"] == "fal-ai/pulid"
    assert told["seed"] == result.json["seed"]
    assert told["input"]["prompt"] == WISH
    assert told["input"]["image_size"] == SMALL
    assert told["input"]["num_inference_steps"] == 4
    assert told["input"]["reference_images"] == [{}, {}]
    for hidden in (b"data:", b"file:", b"http", b"image_url", ASTRONAUT[-60:].encode()):
        assert hidden not in data[: data.index(b"IDAT")]


def test_the_parameters_make_the_same_picture_again(wire):
    first, _ = picture_of(wire, wire.finish(wire.submit("fal-ai/pulid", PULID | {"seed": None})))
    told = json.loads(first.text["parameters"])
    again = {**told["input"], "seed": told["seed"], "reference_images": PULID["reference_images"]}
    second, _ = picture_of(wire, wire.finish(wire.submit(told["endpoint"], again)))

    assert first.tobytes() == second.tobytes()


def test_a_single_photo_is_left_out_of_the_parameters_too(wire, instantid_input):
    picture, data = picture_of(wire, wire.finish(wire.submit("fal-ai/instantid/lcm", instantid_input)))
    told = json.loads(picture.text["parameters"])

    assert told["seed"] == 1
    assert told["input"]["prompt"] == "man"
    assert "face_image_url" not in told["input"]
    assert b"file:" not in data[: data.index(b"IDAT")]


def test_a_client_that_wants_nothing_kept_gets_pictures_that_say_nothing(wire):
    """23: the file outlives the payload, so it must not hold it."""
    picture, data = picture_of(wire, wire.finish(wire.submit("fal-ai/pulid", PULID, x_fal_store_io="0")))
    assert picture.text == {}
    assert "雪".encode() not in data


def test_an_operator_can_switch_the_parameters_off(tmp_path):
    site = Site(tmp_path, png_parameters=False)
    with site.worker():
        [image] = site.done(site.put(BLUE_SQUARE)).result["images"]
    data = site.files.read(image["url"].removeprefix("file:"))
    site.queue.close()
    assert Image.open(io.BytesIO(data)).text == {}


# Cancel


@pytest.mark.parametrize(
    ("endpoint", "body", "steps"),
    [
        ("fal-ai/instantid/lcm", INSTANTID | {"num_inference_steps": 30}, 30),
        ("fal-ai/pulid", PULID | {"num_inference_steps": 12, "num_images": 4, "image_size": "square"}, 12),
    ],
    ids=["instantid", "pulid"],
)
def test_a_real_pipeline_stops_soon_after_its_first_step(tiny_server, endpoint, body, steps):
    """56, 59: and the worker goes on with the next request."""
    wire = tiny_server.wire
    request = wire.submit(endpoint, body)
    made = eventually(lambda: steps_made(wire, request))
    assert wire.cancel(request).status == 202
    ended = wire.wait_for(request, "COMPLETED")

    assert made[0] == f"Step 1/{steps}"
    assert ended.json["error_type"] == "client_cancelled"
    assert f"Step {steps}/{steps}" not in steps_made(wire, request)
    assert wire.result(request).status == 499
    assert wire.finish(wire.submit("fal-ai/instantid/lcm", INSTANTID)).status == 200


@pytest.mark.parametrize(
    ("pipeline", "folder", "request_"),
    [
        (InstantIDPipeline, "instantid", InstantIDRequest("x", num_inference_steps=30, size=(256, 256))),
        (PuLIDPipeline, "pulid", PuLIDRequest("x", num_inference_steps=30, width=256, height=256)),
    ],
    ids=["instantid", "pulid"],
)
def test_no_step_follows_the_one_after_which_a_pipeline_is_told_to_stop(pipeline, folder, request_):
    torch.set_num_threads(1)
    loaded = pipeline.load(tiny_root() / folder, Profile(device="cpu", dtype="float32", detector="haar", tiny=True))
    predictions = []
    loaded.unet.register_forward_hook(lambda *_: predictions.append(1))
    prepared = loaded.prepare(request_, [Image.open(PHOTO).convert("RGB")])
    with pytest.raises(Cancelled):
        loaded.generate([prepared], lambda step, total: (step, total) == (1, 30))
    assert len(predictions) == 1


def steps_made(wire, request) -> list[str]:
    lines = wire.status(request, "?logs=1").json["logs"]
    return [line["message"] for line in lines if line["message"].startswith("Step")]
