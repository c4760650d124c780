"""What fal's two error families look like on the wire (fal-protocol.md §2.9), as checks."""

from tests.wire import Answer

ERROR_KEYS = {"loc", "msg", "type", "url"}
OPTIONAL_KEYS = {"ctx", "input"}


def assert_is_validation_error(answer: Answer, loc: list[str | int], *types: str) -> dict:
    """422, every entry in fal's shape, and one of them at `loc` with one of `types`; returns that one."""
    assert answer.status == 422, (answer.status, answer.body)
    assert answer.content_type == "application/json"
    assert set(answer.json) == {"detail"}
    for error in answer.json["detail"]:
        assert ERROR_KEYS <= set(error) <= ERROR_KEYS | OPTIONAL_KEYS
        assert error["url"].endswith(f"#{error['type']}")
    assert_says_whether_to_retry(answer, "false")
    found = [error for error in answer.json["detail"] if error["loc"] == loc]
    assert found, answer.json["detail"]
    assert not types or found[0]["type"] in types
    return found[0]


def assert_is_request_error(answer: Answer, status: int, error_type: str) -> None:
    """`detail` is text, `error_type` stands in the body and in the header."""
    assert answer.status == status, (answer.status, answer.body)
    assert answer.content_type == "application/json"
    assert set(answer.json) == {"detail", "error_type"}
    assert isinstance(answer.json["detail"], str)
    assert answer.json["detail"]
    assert answer.json["error_type"] == error_type
    assert answer.headers["x-fal-error-type"] == error_type
    assert_says_whether_to_retry(answer, "true", "false")


def assert_says_whether_to_retry(answer: Answer, *values: str) -> None:
    """Both names of the header: fal's pages differ (fal-protocol.md §2.9)."""
    assert answer.headers["x-fal-retryable"] in values
    assert answer.headers["x-fal-needs-retry"] in values
