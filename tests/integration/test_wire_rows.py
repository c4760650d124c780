"""Rows of the queue stay small, whatever a client sends: architecture.md, the main path."""

import sqlite3
from contextlib import closing

import pytest

from tests.wire import RUN

LARGEST_ROW = 64 * 1024


def row(server, request_id: str) -> int:
    """Bytes of everything that the queue keeps in a request's row."""
    with closing(sqlite3.connect(f"file:{server.data_dir / 'queue.db'}?mode=ro", uri=True)) as database:
        found = database.execute("SELECT * FROM jobs WHERE id = ?", (request_id,)).fetchone()
    return sum(len(str(value).encode()) for value in found)


def test_pictures_are_in_no_row(painting_server, pulid_input):
    """Neither the input's, as data URIs of half a megabyte, nor the result's."""
    [reference] = pulid_input["reference_images"]
    padded = {"image_url": reference["image_url"].replace("base64,", "base64," + " " * 500_000)}
    request = painting_server.wire.submit("fal-ai/pulid", pulid_input | {"reference_images": [padded] * 4})

    assert painting_server.wire.finish(request).status == 200
    assert row(painting_server, request["request_id"]) < 4096


@pytest.mark.parametrize(
    "wrong",
    [
        {"reference_images": [{"image": "x" * 400}] * 3000, "prompt": "x"},
        {"reference_images": [{"image_url": 7, **{f"{number}" * 90: "y" * 400 for number in range(50)}}] * 100},
        {f"field {number}": ["z" * 450] * 50 for number in range(60)},
    ],
    ids=["many errors", "many errors with large inputs", "a large body without its fields"],
)
def test_the_errors_of_a_bad_request_are_in_no_large_row(painting_server, wrong):
    """48: fal's shape, and how many more errors there are."""
    request = painting_server.wire.submit("fal-ai/pulid", wrong)
    result = painting_server.wire.finish(request)

    assert result.status == 422
    assert all({"loc", "msg", "type", "url"} <= set(error) for error in result.json["detail"])
    assert row(painting_server, request["request_id"]) < LARGEST_ROW


def test_a_prompt_that_no_row_can_hold_is_refused(wire, pulid_input):
    answer = wire.post("/fal-ai/pulid", pulid_input | {"prompt": "x" * LARGEST_ROW}, host=RUN)

    assert answer.status == 422
    assert answer.json["detail"][0]["type"] == "file_too_large"
