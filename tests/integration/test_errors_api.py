"""Malformed requests: fal-protocol.md §2.9, §10 statements 2, 6, 8, 10, 15, 16, 35 and 54."""

import json

import pytest
from structlog.testing import capture_logs

from tests.app import running_app
from tests.wire import QUEUE, RUN

HOSTS = pytest.mark.parametrize("host", [QUEUE, RUN])
DEEP = b'{"prompt":' * 20_000 + b"1" + b"}" * 20_000


@HOSTS
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"1", b"null", b'"text"', b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n", b"\xef\xbb\xbf{}", DEEP,
     b"[" * 100_000, b'{"prompt":NaN}', b'{"prompt":"\\ud800"}', b"{'prompt':'x'}", b'{"prompt":"x"}x'],
)  # fmt: skip
def test_what_is_no_json_object_is_422_with_a_detail(wire, host, body):
    """15, 16: never 500, and the answer is valid JSON."""
    answer = wire.post("/fal-ai/pulid", body, host=host)

    assert answer.status == 422
    assert answer.content_type == "application/json"
    [error] = answer.json["detail"]
    assert error["loc"] == ["body"]
    assert error["type"] == "json_invalid"
    assert error["url"] == "https://docs.fal.ai/errors/#json_invalid"


@HOSTS
@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x", "image/png", "x"])
def test_another_content_type_is_422(wire, host, content_type):
    answer = wire.post("/fal-ai/pulid", {"prompt": "x"}, host=host, headers={"Content-Type": content_type})

    assert answer.status == 422
    assert "application/json" in answer.json["detail"][0]["msg"]


@HOSTS
@pytest.mark.parametrize(
    "number", ["1e309", "-1e309", "1e-400", "18446744073709551616", "-1", "1.5", "true", '"5"', "[]"]
)
@pytest.mark.parametrize("field", ["seed", "guidance_scale", "num_images"])
def test_odd_numbers_never_break_the_server(wire, pulid_input, host, field, number):
    text = json.dumps(pulid_input | {field: "ODD"}).replace('"ODD"', number)
    answer = wire.post("/fal-ai/pulid", text.encode(), host=host)

    assert answer.status in {200, 422}
    json.loads(answer.body, parse_constant=pytest.fail)


@pytest.mark.parametrize("prompt", ["", "\x00", "\u202eabc", "😀" * 1000, "x" * 1_000_000, "'; DROP TABLE jobs; --"])
def test_odd_prompts_are_stored_or_refused(wire, pulid_input, prompt):
    request = wire.submit("fal-ai/pulid", pulid_input | {"prompt": prompt})
    answer = wire.finish(request)

    assert answer.status in {200, 422}
    assert answer.status == 200 or answer.json["detail"][0]["loc"][0] == "body"


def test_a_body_over_the_limit_is_413_without_being_read_to_its_end(tmp_path):
    with running_app(tmp_path, max_body_mb=1) as (client, queue):
        for path in ("/queue/fal-ai/pulid", "/fal-ai/pulid"):
            answer = client.post(path, content=b" " * (2**20 + 1), headers={"Content-Type": "application/json"})
            assert answer.status_code == 413
            assert answer.headers["content-type"] == "application/json"
            assert "1 MB" in answer.json()["detail"]
        assert queue.census.take().states == {"IN_QUEUE": 0, "IN_PROGRESS": 0, "COMPLETED": 0}


def test_a_client_that_announces_a_huge_body_is_answered_at_once(wire):
    """It waits for 100 Continue, like curl, and never sends a byte of it."""
    connection = wire.connect(timeout_s=5)
    connection.putrequest("POST", "/fal-ai/pulid", skip_host=True)
    for name, value in (("Host", RUN), ("Content-Type", "application/json"), ("Content-Length", str(10**10))):
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()

    assert answer.status == 413
    assert json.loads(answer.read())["error_type"] == "request_too_large"
    assert answer.headers["connection"] == "close"
    connection.close()


@pytest.mark.parametrize(
    "path", ["/nobody/nothing", "/fal-ai/pulid/x", "/fal-ai", "/fal-ai/pulid/requests", "/%00", "/a" * 200]
)
@HOSTS
def test_an_unknown_application_is_404_with_a_detail(wire, host, path):
    """2, 10."""
    answer = wire.post(path, {}, host=host)

    assert answer.status == 404
    assert answer.reason == "Not Found"
    assert isinstance(answer.json["detail"], str)


@HOSTS
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_an_unknown_path_is_404_with_a_detail_for_every_method(wire, host, method):
    answer = wire.ask(method, "/nobody/nothing", host=host)

    assert answer.status == 404
    assert answer.json["detail"].endswith("not found")


def test_the_wrong_method_on_an_application_is_405(wire):
    assert wire.get("/fal-ai/pulid", host=RUN).status == 405
    assert wire.get("/fal-ai/pulid", host=QUEUE).status == 405


def test_an_unknown_path_is_named_as_the_client_wrote_it(wire):
    assert wire.get("/a/b", host=QUEUE).json["detail"] == "Path /a/b not found"
    assert wire.get("/queue/a/b", host=None).json["detail"] == "Path /queue/a/b not found"


@pytest.mark.parametrize("request_id", ["x", "%00", "00000000-0000-4000-8000-000000000000", "{id}", "..", "a" * 3000])
@pytest.mark.parametrize("way", ["", "/status", "/status/stream", "/response"])
def test_an_unknown_request_is_404_with_a_detail(wire, request_id, way):
    """35."""
    answer = wire.get(f"/fal-ai/pulid/requests/{request_id}{way}")

    assert answer.status == 404
    assert isinstance(answer.json["detail"], str)


def test_a_request_is_found_under_its_own_application_only(wire, pulid_input):
    request = wire.submit("fal-ai/pulid", pulid_input)
    answer = wire.get(f"/fal-ai/instantid/requests/{request['request_id']}/status")

    assert answer.status == 404
    assert wire.finish(request).status == 200


@pytest.mark.parametrize("path", ["//fal-ai//pulid", "/fal-ai/pulid/", "/fal-ai/pulid//"])
def test_double_and_trailing_slashes_are_answered_without_a_redirect(wire, pulid_input, path):
    """6, 8."""
    answer = wire.post(path, pulid_input)

    assert answer.status == 200
    assert wire.finish(answer.json).status == 200


def test_a_submit_that_cannot_be_stored_is_503_and_not_acknowledged(tmp_path, pulid_input):
    """The database is read-only: the client may send the request again, and the log has a line, not a traceback."""
    with running_app(tmp_path) as (client, queue), capture_logs() as lines:
        with queue._store._durable.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        answer = client.post("/queue/fal-ai/pulid", json=pulid_input)
        with queue._store._durable.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = OFF")

        assert answer.status_code == 503
        assert answer.json()["error_type"] == "service_unavailable"
        assert answer.headers["retry-after"]
        assert queue.census.take().states["IN_QUEUE"] == 0
    [told] = [line for line in lines if line["log_level"] == "error"]
    assert told["reason"] == "attempt to write a readonly database"
    assert "exc_info" not in told


def test_the_error_of_an_unforeseen_failure_says_nothing_about_the_inside(tmp_path, pulid_input):
    """The database is gone: the client learns the request's id, the log learns the rest."""
    with running_app(tmp_path) as (client, queue):
        queue.close()
        (tmp_path / "queue.db").write_bytes(b"no database" * 1000)
        for file in tmp_path.glob("queue.db-*"):
            file.unlink()
        answer = client.post("/queue/fal-ai/pulid", json=pulid_input)

        assert answer.status_code >= 500
        assert answer.headers["x-fal-request-id"]
        assert "sqlite" not in answer.text.lower()
        assert "database" not in answer.text.lower()
