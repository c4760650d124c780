"""Bodies that no well-behaved client sends: numbers, prompts and JSON of every kind are answered, never with a 500."""

import gzip
import json
from typing import Any

import pytest

from tests.wire import RUN, Answer, Wire

PULID, INSTANTID = "/fal-ai/pulid", "/fal-ai/instantid/lcm"


def spliced(body: dict[str, Any], field: str, literal: str) -> bytes:
    """The body as JSON with `literal` as it stands in the place of the field's value."""
    rest = json.dumps({name: value for name, value in body.items() if name != field})
    return f'{rest[:-1]}, "{field}": {literal}}}'.encode()


def run(wire: Wire, path: str, body: bytes | dict[str, Any], **headers: str) -> Answer:
    answer = wire.post(path, body, host=RUN, headers=headers)
    assert answer.content_type == "application/json"
    assert answer.status < 500, answer.body
    return answer


@pytest.mark.parametrize(
    ("literal", "status"),
    [
        pytest.param(json.dumps("x" * 1_000_000), 422, id="1MB"),
        ('"a\\u0000b"', 200),
        ('"\\ud800"', 422),
        (json.dumps("\u202eمرحبا"), 200),
        ('"🙂👩\u200d🎨"', 200),
        ('""', 200),
        ('"   "', 200),
    ],
)
def test_any_prompt_is_drawn_or_refused(wire, pulid_input, literal, status):
    """row 74."""
    answer = run(wire, PULID, spliced(pulid_input, "prompt", literal))

    assert answer.status == status, answer.body[:300]
    assert len(answer.body) < 100_000


@pytest.mark.parametrize(
    ("field", "literal", "status"),
    [
        ("guidance_scale", "NaN", 422),
        ("guidance_scale", "Infinity", 422),
        ("guidance_scale", "1e309", 422),
        ("guidance_scale", "-0", 422),
        ("guidance_scale", '"1.2"', 200),
        ("guidance_scale", "true", 200),
        ("guidance_scale", "null", 422),
        ("num_inference_steps", '"5"', 200),
        ("num_inference_steps", "5.0", 200),
        ("num_inference_steps", "5.5", 422),
        ("num_inference_steps", "1e400", 422),
        ("num_inference_steps", "[5]", 422),
        ("num_images", "true", 200),
        ("num_images", "-0", 422),
    ],
)
def test_numbers_are_read_as_fal_reads_them(wire, pulid_input, field, literal, status):
    """row 75: text that is a number counts as one, and true as 1, as in pydantic's lax mode, which fal's apps use."""
    answer = run(wire, PULID, spliced(pulid_input, field, literal))

    assert answer.status == status, answer.body[:300]
    if status == 422:
        assert answer.json["detail"][0]["msg"]
        assert answer.headers["x-fal-billable-units"] == "0"


@pytest.mark.parametrize(
    ("literal", "status"),
    [
        ("-1", 422),
        ("4294967296", 200),
        ("18446744073709551615", 200),
        ("18446744073709551616", 422),
        ("1.5", 422),
        ("1.0", 200),
        ("null", 200),
    ],
)
@pytest.mark.parametrize("path", [PULID, INSTANTID])
def test_a_seed_is_a_whole_number_that_a_generator_takes(wire, pulid_input, instantid_input, path, literal, status):
    """row 76: 64 bits without a sign; it comes back unrounded, or drawn for null."""
    answer = run(wire, path, spliced(pulid_input if path == PULID else instantid_input, "seed", literal))

    assert answer.status == status, answer.body[:300]
    if status == 200 and literal != "null":
        assert answer.json["seed"] == int(float(literal)) if "." in literal else int(literal)


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 1_000_000}, "num_inference_steps"),
        ({"image_size": {"width": 8, "height": 8}}, "image_size"),
        ({"image_size": {"width": 100_000, "height": 100_000}}, "image_size"),
        ({"image_size": {"width": 513, "height": 515}}, None),
    ],
)
def test_steps_and_sizes_beyond_reason_are_named(wire, pulid_input, change, loc):
    """row 77."""
    answer = run(wire, PULID, pulid_input | change)

    if loc is None:
        assert answer.status == 200
        image = answer.json["images"][0]
        assert (image["width"] % 8, image["height"] % 8) == (0, 0)
    else:
        assert answer.status == 422
        assert answer.json["detail"][0]["loc"][:2] == ["body", loc]


def test_odd_json_is_bounded(wire, pulid_input):
    """row 78: unknown fields and a name twice (the last one counts) are served; depth, BOM and gzip are refused."""
    good = json.dumps(pulid_input).encode()
    deep = b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"

    assert run(wire, PULID, pulid_input | {"nobody_knows": {"a": 1}}).status == 200
    assert run(wire, PULID, good[:-1] + b', "seed": 5}').json["seed"] == 5
    assert run(wire, PULID, deep).status in {400, 422}
    assert run(wire, PULID, b"\xef\xbb\xbf" + good).status in {400, 422}
    assert run(wire, PULID, gzip.compress(good)).status in {400, 415, 422}
    assert run(wire, PULID, gzip.compress(good), **{"Content-Encoding": "gzip"}).status in {400, 415, 422}
    assert run(wire, PULID, good).status == 200
