"""Result, on the wire: fal-protocol.md §2.4, §10 statements 7 and 45–54."""

import io

import pytest
from PIL import Image

from tests.pipelines.catalog import BROKEN
from tests.wire_checks import assert_is_request_error, assert_is_validation_error

IMAGE_KEYS = {"url", "content_type", "file_name", "file_size", "width", "height"}


def test_the_result_is_the_bare_output_and_the_header_names_the_request(wire, pulid_input):
    """45, 46."""
    request = wire.submit("fal-ai/pulid", pulid_input)
    result = wire.finish(request)

    assert result.status == 200
    assert result.content_type == "application/json"
    assert set(result.json) == {"images", "seed"}
    assert result.headers["x-fal-request-id"] == request["request_id"]


def test_the_result_can_be_fetched_twice_and_under_its_older_name(wire, pulid_input):
    """7, 53."""
    request = wire.submit("fal-ai/pulid", pulid_input)
    first = wire.finish(request)

    assert wire.result(request).body == first.body
    assert wire.follow(request["response_url"] + "/response").body == first.body


@pytest.mark.parametrize("tail", ["", "/", "/response"])
def test_the_result_of_unfinished_work_is_400(wire, gate, tail):
    """47: waiting and running alike."""
    for request in (gate.occupy(), gate.submit()):
        answer = wire.follow(request["response_url"] + tail)

        assert answer.status == 400
        assert answer.json["detail"] == "Request is still in progress"
        assert answer.headers["x-fal-request-id"] == request["request_id"]


def test_the_picture_behind_the_url_is_what_the_result_says(wire, pulid_input):
    """98, §8.3: bytes, type, size in bytes and in pixels."""
    image = wire.finish(wire.submit("fal-ai/pulid", pulid_input)).json["images"][0]
    file = wire.follow(image["url"])

    assert set(image) == IMAGE_KEYS
    assert file.status == 200
    assert file.content_type == image["content_type"] == "image/png"
    assert len(file.body) == image["file_size"]
    assert Image.open(io.BytesIO(file.body)).size == (image["width"], image["height"]) == (256, 256)
    assert image["file_name"].endswith(".png")


def test_a_missing_field_is_422_naming_it(wire, photo):
    """48, 49: JS compares the last element of loc."""
    request = wire.submit("fal-ai/pulid", {"reference_images": [{"image_url": photo}]})
    result = wire.finish(request)

    error = assert_is_validation_error(result, ["body", "prompt"], "missing")
    assert error["msg"]
    assert result.headers["x-fal-request-id"] == request["request_id"]
    assert wire.result(request).body == result.body


def test_a_pipeline_that_breaks_is_500_without_its_text(wire):
    """51, 52, §2.9: the reason goes to the log, the client learns only that it was the server."""
    request = wire.submit(BROKEN.id, {"prompt": "a portrait"})
    result = wire.finish(request)

    assert result.status == 500
    assert result.content_type == "application/json"
    assert "internal_server_error" in str(result.json)
    assert "Traceback" not in result.body.decode()
    assert result.headers["x-fal-retryable"] in {"true", "false"}
    assert result.headers["x-fal-request-id"] == request["request_id"]
    assert wire.status(request).json["error_type"]


def test_a_cancelled_request_is_a_request_error(wire, gate):
    """51, 52, 54."""
    gate.occupy()
    request = gate.submit()
    wire.cancel(request)

    assert_is_request_error(wire.finish(request), 499, "client_cancelled")
