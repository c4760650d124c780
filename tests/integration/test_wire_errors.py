"""Bad inputs, on the wire: fal-protocol.md §2.9, §10 statements 48, 51, 52, 54, 103 and 104. Never a 500, and the next
request works."""

import base64
from typing import Any

import pytest

from tests.conftest import as_data_uri
from tests.pipelines.catalog import BLACK_OUT, BROKEN, NOBODY_THERE, OUT_OF_MEMORY
from tests.wire import QUEUE, RUN, Answer, Wire
from tests.wire_checks import assert_is_validation_error, assert_says_whether_to_retry
from tests.wire_receiver import Receiver

NOT_IMAGES = [b"I am not a picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n"]
URL_LOC: list[str | int] = ["body", "reference_images", 0, "image_url"]


@pytest.fixture(params=["run", "queue"])
def outcome(request: pytest.FixtureRequest, wire: Wire, pulid_input: dict[str, Any]) -> Any:
    """The answer to a request, by run and by queue; afterwards a good request must still work."""

    def ask(endpoint: str, body: Any) -> Answer:
        if request.param == "run":
            return wire.post(f"/{endpoint}", body, host=RUN)
        return wire.finish(wire.submit(endpoint, body))

    yield ask
    assert wire.post("/fal-ai/pulid", pulid_input, host=RUN).status == 200


def test_a_photo_without_a_face_is_422_naming_the_image(outcome, photo):
    """103."""
    answer = outcome(NOBODY_THERE.id, {"prompt": "a portrait", "image_url": photo})

    error = assert_is_validation_error(answer, ["body", "image_url"], "face_detection_error")
    assert "face" in error["msg"]
    assert error["url"] == "https://docs.fal.ai/errors/#face_detection_error"


@pytest.mark.parametrize("content", NOT_IMAGES)
def test_a_data_uri_that_is_no_image_is_422(outcome, pulid_input, content):
    """104: by content, whatever the type it claims to have."""
    answer = outcome("fal-ai/pulid", pulid_input | {"reference_images": [{"image_url": as_data_uri(content)}]})

    assert_is_validation_error(answer, URL_LOC, "image_load_error", "unsupported_image_format")


@pytest.mark.parametrize("uri", ["data:image/png;base64,####", "data:image/png", "data:,", "data:image/png;base64,"])
def test_a_broken_data_uri_is_422(outcome, pulid_input, uri):
    """104."""
    answer = outcome("fal-ai/pulid", pulid_input | {"reference_images": [{"image_url": uri}]})

    assert_is_validation_error(answer, URL_LOC, "image_load_error", "file_download_error", "unsupported_image_format")


@pytest.mark.parametrize(
    "url",
    [
        "https://nowhere.invalid/face.png",
        "http://127.0.0.1:1/face.png",
        "http://169.254.169.254/latest",
        "http://10.0.0.1/",
    ],
)
def test_a_url_that_cannot_be_reached_is_422(outcome, pulid_input, url):
    """104: unknown name, closed port, and addresses that this server may not ask."""
    answer = outcome("fal-ai/pulid", pulid_input | {"reference_images": [{"image_url": url}]})

    assert_is_validation_error(answer, URL_LOC, "file_download_error")


@pytest.mark.parametrize("url", ["", "face.png", "file:///etc/passwd", "ftp://example.com/face.png", "javascript:1"])
def test_what_is_no_http_url_is_422(outcome, pulid_input, url):
    """104."""
    answer = outcome("fal-ai/pulid", pulid_input | {"reference_images": [{"image_url": url}]})

    assert_is_validation_error(answer, URL_LOC)


@pytest.mark.parametrize(
    ("status", "body", "error_type"), [(404, b"gone", "file_download_error"), (200, b"<html>", "image_load_error")]
)
def test_an_address_without_an_image_is_422_naming_the_field(outcome, pulid_input, photo, status, body, error_type):
    """104: the second of two pictures, so that the index is told."""
    with Receiver(status, body) as receiver:
        faces = [{"image_url": photo}, {"image_url": f"{receiver.url}/face.png"}]
        answer = outcome("fal-ai/pulid", pulid_input | {"reference_images": faces})

    assert_is_validation_error(answer, ["body", "reference_images", 1, "image_url"], error_type)


def test_an_image_behind_a_url_works(outcome, pulid_input, photo):
    """104, the other way round: what is refused above is not refused for being a URL."""
    with Receiver(200, base64.b64decode(photo.partition(",")[2]), "image/png") as receiver:
        answer = outcome("fal-ai/pulid", pulid_input | {"reference_images": [{"image_url": f"{receiver.url}/face"}]})

    assert answer.status == 200


@pytest.mark.parametrize(
    ("change", "loc", "types"),
    [
        ({"num_images": 9}, ["body", "num_images"], ["less_than_equal"]),
        ({"num_images": "many"}, ["body", "num_images"], ["int_parsing"]),
        ({"prompt": None}, ["body", "prompt"], ["string_type"]),
        ({"prompt": 7}, ["body", "prompt"], ["string_type"]),
        ({"reference_images": "face.png"}, ["body", "reference_images"], ["list_type"]),
        ({"reference_images": []}, ["body", "reference_images"], ["sequence_too_short", "too_short"]),
        ({"reference_images": [{}]}, URL_LOC, ["missing"]),
        ({"seed": -1}, ["body", "seed"], ["greater_than_equal"]),
        ({"seed": 1.5}, ["body", "seed"], ["int_from_float"]),
    ],
)
def test_a_value_out_of_range_is_422_naming_the_field(outcome, pulid_input, change, loc, types):
    """48, 95, §2.9."""
    assert_is_validation_error(outcome("fal-ai/pulid", pulid_input | change), loc, *types)


def test_a_number_out_of_range_tells_its_limit(outcome, pulid_input):
    """§2.9: ctx of fal's own types."""
    answer = outcome("fal-ai/pulid", pulid_input | {"num_images": 9})

    error = assert_is_validation_error(answer, ["body", "num_images"])
    assert error["ctx"] == {"le": 8}
    assert error["input"] == 9


def test_every_wrong_field_is_told_at_once(outcome):
    """48."""
    answer = outcome("fal-ai/pulid", {"num_images": 0, "id_scale": 0, "reference_images": []})

    fields = {error["loc"][1] for error in answer.json["detail"]}
    assert fields == {"prompt", "num_images", "id_scale", "reference_images"}


def test_a_validation_error_costs_nothing(outcome):
    """§2.9: fal bills no units."""
    assert outcome("fal-ai/pulid", {}).headers["x-fal-billable-units"] == "0"


def test_an_error_never_carries_the_pictures_bytes(outcome, photo):
    """§2.9: `input` is cut."""
    answer = outcome("fal-ai/pulid", {"reference_images": photo + "A" * 10_000, "prompt": "x"})

    assert answer.status == 422
    assert len(answer.body) < 2_000


@pytest.mark.parametrize("character", [BROKEN, BLACK_OUT, OUT_OF_MEMORY], ids=lambda character: character.id)
def test_the_servers_own_faults_are_500_in_fals_shape(outcome, character):
    """51, 52, 54: final, so 500 and never 503."""
    answer = outcome(character.id, {"prompt": "a portrait"})

    assert answer.status == 500
    assert answer.content_type == "application/json"
    assert answer.json["detail"]
    assert_says_whether_to_retry(answer, "true", "false")
    assert "secret" not in answer.body.decode()


@pytest.mark.parametrize("host", [RUN, QUEUE])
@pytest.mark.parametrize("megabytes", [5, 20])
def test_a_body_that_is_too_large_is_refused(wire, host, megabytes, pulid_input):
    """§2.1: at the submit already; this server takes 4 MB."""
    body = b'{"prompt": "' + b"x" * megabytes * 1_000_000 + b'"}'
    answer = wire.post("/fal-ai/pulid", body, host=host)

    assert answer.status == 413
    assert answer.content_type == "application/json"
    assert answer.json["detail"]
    assert wire.post("/fal-ai/pulid", pulid_input, host=RUN).status == 200


@pytest.mark.parametrize("host", [RUN, QUEUE, "rest.fal.ai", "v3.fal.media", "fal.ai", None])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/nothing/here/at/all", "/%00", "/..%2f..%2fetc%2fpasswd", "/" + "a" * 3000])
def test_every_unknown_path_is_a_json_error(wire, host, method, path):
    """10, 54: on every host."""
    answer = wire.ask(method, path, host=host)

    assert answer.status in {400, 401, 404, 405}
    assert answer.content_type == "application/json"
    assert answer.json["detail"]
    assert_says_whether_to_retry(answer, "true", "false")


@pytest.mark.parametrize("path", ["/fal-ai/pulid/requests/x/status", "/fal-ai/pulid/requests/x/cancel"])
def test_a_wrong_method_is_a_json_error(wire, path):
    """54."""
    answer = wire.ask("DELETE", path)

    assert answer.status in {404, 405}
    assert answer.content_type == "application/json"
    assert answer.json["detail"]


def test_a_reason_phrase_comes_with_every_status(wire, pulid_input):
    """0.8: JS shows it as the error's message."""
    assert wire.post("/fal-ai/pulid", {}, host=RUN).reason.startswith("Unprocessable")
    assert wire.post("/fal-ai/nothing", {}, host=RUN).reason == "Not Found"
    assert wire.status(wire.submit("fal-ai/pulid", pulid_input)).reason in {"Accepted", "OK"}
