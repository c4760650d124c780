"""Every failure has fal's shape (fal-protocol.md §2.9), and says nothing that it should not."""

import json

import pytest
from pydantic import BaseModel, Field, ValidationError

from pipelines.errors import Cancelled, FaceNotFound, ImageTooSmall, OutOfMemory
from server.errors import (
    NotFound,
    QueueFull,
    RequestError,
    RequestTimeout,
    RunnerDisconnected,
    error_response,
    json_safe,
    stored_error,
)


class Form(BaseModel):
    prompt: str
    steps: int = Field(default=4, ge=1, le=12)
    sizes: list[int] = []


def invalid(**fields: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Form.model_validate(fields)
    return caught.value


def test_an_invalid_input_names_each_field():
    response = error_response(invalid(steps=13, sizes=[1, "x"]))
    assert response.status == 422
    assert [(one["loc"], one["type"]) for one in response.body["detail"]] == [
        (["body", "prompt"], "missing"),
        (["body", "steps"], "less_than_equal"),
        (["body", "sizes", 1], "int_parsing"),
    ]
    too_many = response.body["detail"][1]
    assert too_many["ctx"] == {"le": 12}
    assert too_many["input"] == 13
    assert too_many["url"] == "https://docs.fal.ai/errors/#less_than_equal"
    assert response.headers["X-Fal-Retryable"] == response.headers["X-Fal-Needs-Retry"] == "false"
    assert response.headers["x-fal-billable-units"] == "0"


def test_a_pipelines_input_error_names_its_field():
    response = error_response(FaceNotFound(("reference_images", 1, "image_url")))
    [detail] = response.body["detail"]
    assert (response.status, response.error_type) == (422, "face_detection_error")
    assert detail["loc"] == ["body", "reference_images", 1, "image_url"]
    assert "face" in detail["msg"]
    assert error_response(ImageTooSmall(("x",), ctx={"min_width": 8})).body["detail"][0]["ctx"] == {"min_width": 8}


@pytest.mark.parametrize(
    ("error", "status", "error_type", "retryable"),
    [
        (QueueFull(), 429, "queue_full", "true"),
        (RunnerDisconnected(), 503, "runner_disconnected", "true"),
        (RequestTimeout(), 504, "request_timeout", "false"),
        (Cancelled(), 499, "client_cancelled", "false"),
        (OutOfMemory(), 500, "runner_server_error", "false"),
        (NotFound(), 404, "not_found", "false"),
        (RequestError("no", http_status=418, error_type="teapot"), 418, "teapot", "false"),
    ],
)
def test_an_infrastructure_error_has_one_text_and_one_type(error, status, error_type, retryable):
    response = error_response(error)
    assert (response.status, response.error_type) == (status, error_type)
    assert response.body == {"detail": response.body["detail"], "error_type": error_type}
    assert response.headers["X-Fal-Error-Type"] == error_type
    assert response.headers["X-Fal-Retryable"] == retryable


def test_a_passed_start_timeout_is_marked_as_the_users_own():
    assert error_response(RequestTimeout()).headers["X-Fal-Request-Timeout-Type"] == "user"


def test_a_stored_failure_gets_the_same_headers_as_a_fresh_one():
    for error in (RequestTimeout(), RunnerDisconnected(), Cancelled(), FaceNotFound(("image_url",))):
        fresh = error_response(error)
        assert stored_error(fresh.status, fresh.body, fresh.error_type) == fresh


def test_an_unforeseen_error_tells_the_client_nothing_of_its_text():
    response = error_response(KeyError("the secret prompt"))
    assert response.status == 500
    assert response.body["detail"][0]["type"] == "internal_server_error"
    assert "secret" not in json.dumps(response.body)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"\xff\xfe", "\ud800", {1: {2: b"x"}}, {"a": object()}])
def test_whatever_a_client_sent_can_be_sent_back_as_json(value):
    text = json.dumps(json_safe(value), allow_nan=False, ensure_ascii=False)
    text.encode("utf-8")


def test_a_data_uri_and_long_or_deep_input_is_cut():
    uri = "data:image/png;base64," + "A" * 100_000
    assert len(json_safe(uri)) < 200
    assert len(json_safe("x" * 100_000)) < 1000
    deep: list = []
    for _ in range(1000):
        deep = [deep]
    assert len(json.dumps(json_safe(deep))) < 200
    assert len(json_safe(list(range(10_000)))) <= 50


def test_a_failing_input_with_nan_is_answered():
    body = error_response(invalid(prompt="x", steps=float("nan"))).body
    json.dumps(body, allow_nan=False)
