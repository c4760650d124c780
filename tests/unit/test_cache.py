"""What requests share is kept within its bounds, and nothing longer than was promised."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.cache import Cache, digest
from pipelines.faces.remembered import RememberedFaces
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline
from scripts import full_depth

ROOT = Path(__file__).parents[2]


def block() -> torch.Tensor:
    """400 kB."""
    return torch.zeros(100_000)


def test_the_least_recently_used_value_goes_when_there_is_no_room() -> None:
    cache = Cache(most_mb=1)
    first = cache.get("first", block)
    cache.get("second", block)
    assert cache.get("first", block) is first
    cache.get("third", block)
    assert len(cache) == 2
    assert cache.get("first", block) is first
    cache.get("large", lambda: torch.zeros(1_000_000))
    assert len(cache) == 2, "what is larger than all room is not kept"


def test_a_value_goes_in_time_though_nobody_asks() -> None:
    cache = Cache(most_mb=1, most_s=0.3)
    cache.get("face", block)
    assert len(cache) == 1
    deadline = time.monotonic() + 20
    while len(cache) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(cache) == 0
    cache.get("face", block)
    assert len(cache) == 1, "the next one is kept and swept as well"


def test_zero_keeps_nothing() -> None:
    cache, made = Cache(0), []
    for _ in range(2):
        cache.get("face", lambda: made.append(1) or torch.zeros(1))
    assert len(cache) == 0
    assert len(made) == 2


def test_what_was_not_found_is_looked_for_again() -> None:
    cache = Cache(1)
    assert cache.get("face", lambda: None) is None
    assert len(cache) == 0


@pytest.mark.parametrize("other", [np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.int8), np.ones((3, 2), np.uint8)])
def test_a_digest_tells_shape_type_and_content(other: np.ndarray) -> None:
    one = np.zeros((3, 2), np.uint8)
    assert digest(one) == digest(one.copy(order="F"))
    assert digest(one) != digest(other)
    assert digest(one, one) != digest(one)


class CountingFaces(full_depth.OneFace):
    def __init__(self) -> None:
        self.looks = 0

    def largest(self, image: Image.Image, retry: bool = True):
        self.looks += 1
        return super().largest(image, retry)


def test_a_photo_seen_before_is_not_looked_at_again() -> None:
    faces, photo = CountingFaces(), full_depth.PHOTO
    remembered = RememberedFaces(faces, Cache(1))
    first = remembered.largest(photo)
    assert remembered.largest(photo.copy()) is first
    assert faces.looks == 1
    remembered.largest(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert faces.looks == 2


def test_a_request_that_comes_again_gives_the_same_picture_and_encodes_nothing_twice() -> None:
    torch.set_num_threads(1)
    faces, calls = CountingFaces(), []
    profile = Profile(device="cpu", dtype="float32", identity_cache_mb=8)
    pipeline = PuLIDPipeline.load(ROOT / "weights/tiny/pulid", profile, faces=faces)
    for net in (pipeline.eva, pipeline.text_encoder, pipeline.text_encoder_2):
        net.register_forward_hook(lambda net, *_: calls.append(type(net).__name__))
    request = PuLIDRequest("portrait", width=64, height=64, seed=1, num_inference_steps=1)
    drawn = []
    for prompt in ("portrait", "portrait", "in garden"):
        prepared = pipeline.prepare(PuLIDRequest(**{**vars(request), "prompt": prompt}), [full_depth.PHOTO])
        drawn.append(pipeline.generate([prepared], lambda step, total: False, "raw")[0][0].latents)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert faces.looks == 1
    assert sorted(calls) == ["CLIPTextModel"] * 2 + ["CLIPTextModelWithProjection"] * 2 + ["EVAVisionTower"]
