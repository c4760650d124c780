"""Requests that meet in one pipeline give bit for bit what they give alone: masks, scales, modes never leak."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.errors import Cancelled
from pipelines.faces.analysis import Face
from pipelines.instantid.endpoint import Control, InstantIDRequest
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline
from scripts.replay_pulid import RecordedFaces

ROOT = Path(__file__).parents[2]
PROFILE = Profile(device="cpu", dtype="float32")
KPS = np.array([[24, 24], [40, 24], [32, 34], [26, 44], [38, 44]], np.float32)
PHOTOS = [Image.new("RGB", (64, 64), (shade, shade, shade)) for shade in (40, 60)]
STEPS, PATIENCE_S = 3, 60

Meeting = tuple[Any, list[tuple[Any, Sequence[Image.Image]]]]
"""A pipeline, and two requests with their photos."""


class FaceByShade:
    """A photo's grey value tells who it shows and where; nothing is kept between calls."""

    def largest(self, image: Image.Image, retry: bool = True) -> Face:
        shade = int(np.asarray(image)[0, 0, 0])
        embedding = np.random.default_rng(shade).normal(0, 0.8, 512).astype(np.float32)
        box = np.array([shade - 36, 4, shade - 10, 60], np.float32)
        return Face(box, KPS + np.float32(shade - 40), 1.0, embedding)


@pytest.fixture(scope="module")
def instantid() -> Meeting:
    torch.set_num_threads(1)
    pipeline = InstantIDPipeline.load(ROOT / "weights/tiny/instantid", PROFILE, faces=FaceByShade())
    first = InstantIDRequest("a man", seed=1, size=(64, 64), num_inference_steps=STEPS, style="Watercolor")
    second = InstantIDRequest(
        "a man smiling",
        seed=2,
        size=(96, 64),
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        style="Neon",
        controls=(Control("depth", 0.9, PHOTOS[0]),),
        ip_adapter_scale=0.2,
        identity_controlnet_conditioning_scale=1.4,
        enhance_face_region=False,
    )
    return pipeline, [(first, PHOTOS[:1]), (second, PHOTOS[1:])]


@pytest.fixture(scope="module")
def pulid() -> Meeting:
    torch.set_num_threads(1)
    faces = RecordedFaces(ROOT / "tests/golden/pulid/cases")
    pipeline = PuLIDPipeline.load(ROOT / "weights/tiny/pulid", PROFILE, faces=faces)
    first = PuLIDRequest("portrait", seed=1, width=64, height=64, num_inference_steps=STEPS)
    second = PuLIDRequest(
        "in garden",
        seed=2,
        width=64,
        height=96,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        id_scale=2.0,
        mode="extreme style",
        id_mix=True,
        num_images=2,
    )
    return pipeline, [(first, [faces.photo(0)]), (second, [faces.photo(1), faces.photo(2)])]


@pytest.fixture(params=["instantid", "pulid"])
def meeting(request: pytest.FixtureRequest) -> Meeting:
    return request.getfixturevalue(request.param)


def alone(meeting: Meeting, index: int) -> torch.Tensor:
    """The latents of one request with the pipeline to itself."""
    pipeline, requests = meeting
    return drawn(pipeline, pipeline.prepare(*requests[index]), lambda step, total: False)


def drawn(pipeline: Any, prepared: Any, on_step: Callable[[int, int], bool]) -> torch.Tensor:
    (pictures,) = pipeline.generate([prepared], on_step, "raw")
    return torch.stack([picture.latents for picture in pictures])


def test_two_requests_that_take_turns_step_by_step_do_not_touch_each_other(meeting: Meeting) -> None:
    pipeline, requests = meeting
    turn = Barrier(2)

    def run(index: int) -> torch.Tensor:
        if index:
            turn.wait(PATIENCE_S)  # the second one is set up while the first one is in its loop
        prepared = pipeline.prepare(*requests[index])

        def on_step(step: int, total: int) -> bool:
            turn.wait(PATIENCE_S)
            return False

        latents = drawn(pipeline, prepared, on_step)
        if not index:
            turn.wait(PATIENCE_S)
        return latents

    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(run, range(2)))
    for index in range(2):
        assert torch.equal(together[index], alone(meeting, index))


def test_a_request_is_prepared_while_another_is_drawn(meeting: Meeting) -> None:
    pipeline, requests = meeting
    ready = []
    with ThreadPoolExecutor(1) as thread:

        def on_step(step: int, total: int) -> bool:
            ready.append(thread.submit(pipeline.prepare, *requests[1]))
            return ready[0].exception(PATIENCE_S) is not None  # the first one meanwhile; the others as they like

        first = drawn(pipeline, pipeline.prepare(*requests[0]), on_step)
    assert len(ready) == STEPS
    assert torch.equal(first, alone(meeting, 0))
    for prepared in ready:
        assert torch.equal(drawn(pipeline, prepared.result(), lambda step, total: False), alone(meeting, 1))


def test_a_cancelled_request_leaves_nothing_behind(meeting: Meeting) -> None:
    pipeline, requests = meeting
    before = alone(meeting, 0)
    with pytest.raises(Cancelled, match="stopped after step 2"):
        drawn(pipeline, pipeline.prepare(*requests[1]), lambda step, total: step == 2)
    assert torch.equal(alone(meeting, 0), before)
