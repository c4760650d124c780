"""Every field of the API and of the pipelines' requests changes the final latents, and what is off changes nothing."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.faces.analysis import Face
from pipelines.instantid.endpoint import Control, InstantidLcmInput, InstantIDRequest
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PulidInput, PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline
from scripts.replay_pulid import RecordedFaces

ROOT = Path(__file__).parents[2]
PROFILE = Profile(device="cpu", dtype="float32", max_side=64)
LEAST = 1e-3
"""Relative change of the latents that counts as one; two runs of one request differ by nothing at all."""

ELSEWHERE = {"model_name", "size", "width", "height", "image_size"}
"""model_name: tests/unit/test_bases.py; the others change the latents' shape, below."""

PHOTOS = [Image.new("RGB", (64, 64), (shade, 90, 120)) for shade in (40, 60)]
KPS = np.array([[24, 24], [40, 24], [32, 34], [26, 44], [38, 44]], np.float32)


class FaceByShade:
    """A photo's red value tells who it shows."""

    def largest(self, image: Image.Image, retry: bool = True) -> Face:
        embedding = np.random.default_rng(int(np.asarray(image)[0, 0, 0])).normal(0, 0.8, 512).astype(np.float32)
        return Face(np.array([4, 8, 50, 56], np.float32), KPS, 1.0, embedding)


@pytest.fixture(scope="module")
def instantid() -> InstantIDPipeline:
    torch.set_num_threads(1)
    return InstantIDPipeline.load(ROOT / "weights/tiny/instantid", PROFILE, faces=FaceByShade())


@pytest.fixture(scope="module")
def pulid() -> PuLIDPipeline:
    torch.set_num_threads(1)
    faces = RecordedFaces(ROOT / "tests/golden/pulid/cases")
    return PuLIDPipeline.load(ROOT / "weights/tiny/pulid", PROFILE, faces=faces)


def draw(pipeline: Any, request: Any, photos: list[Image.Image]) -> torch.Tensor:
    (pictures,) = pipeline.generate([pipeline.prepare(request, photos)], lambda step, total: False, "raw")
    return torch.stack([picture.latents for picture in pictures])


def change_of(after: torch.Tensor, before: torch.Tensor) -> float:
    return float((after - before).abs().max() / before.abs().max())


FACE = {"face_image_url": "0", "prompt": "a man", "seed": 1, "num_inference_steps": 2, "style": "(No style)"}
FACE_CHANGES: dict[str, Any] = {
    "face_image_url": "1",
    "prompt": "ugly",
    "style": "Neon",
    "negative_prompt": "blurry",
    "num_inference_steps": 3,
    "guidance_scale": 1.4,
    "controlnet_selection": None,
    "controlnet_conditioning_scale": 0.5,
    "ip_adapter_scale": 0.6,
    "identity_controlnet_conditioning_scale": 0.6,
    "enhance_face_region": False,
    "seed": 2,
}


def draw_face(pipeline: InstantIDPipeline, body: dict[str, Any]) -> torch.Tensor:
    """A body's latents; its URL is the number of a photo."""
    asked = InstantidLcmInput.model_validate(body)
    noise = np.random.default_rng(int(asked.face_image_url)).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return draw(pipeline, asked.request(), [Image.fromarray(noise)])


@pytest.mark.parametrize("field", FACE_CHANGES)
def test_every_field_of_instantids_api_changes_the_picture(instantid: InstantIDPipeline, field: str) -> None:
    before, after = draw_face(instantid, FACE), draw_face(instantid, FACE | {field: FACE_CHANGES[field]})
    assert change_of(after, before) >= LEAST


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"no_such_field": 7}),
        ({}, {"model_name": ""}),
        ({"guidance_scale": 0.5}, {"guidance_scale": 1}),
        ({"controlnet_selection": None}, {"controlnet_conditioning_scale": 0}),
        ({"controlnet_selection": None}, {"controlnet_selection": "pose", "controlnet_conditioning_scale": 0}),
    ],
    ids=str,
)
def test_what_is_off_in_instantids_api_changes_nothing(instantid: InstantIDPipeline, one: dict, other: dict) -> None:
    assert torch.equal(draw_face(instantid, FACE | one), draw_face(instantid, FACE | other))


def test_instantids_control_images_and_size_change_the_picture(instantid: InstantIDPipeline) -> None:
    request = InstantIDRequest("a man", seed=1, size=(64, 64), num_inference_steps=2)
    drawn = [
        draw(instantid, replace(request, controls=(Control(name, 0.4, photo),)), PHOTOS[:1])
        for name in ("pose", "depth", "canny")
        for photo in PHOTOS
    ]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert change_of(one, other) >= LEAST / 10, "photos that differ in one colour channel only"
    assert draw(instantid, replace(request, size=(96, 64)), PHOTOS[:1]).shape == (1, 4, 8, 12)


REFERENCES = {
    "reference_images": [{"image_url": "0"}, {"image_url": "1"}],
    "prompt": "portrait",
    "seed": 1,
    "num_inference_steps": 2,
    "image_size": {"width": 256, "height": 256},
}
REFERENCE_CHANGES: dict[str, Any] = {
    "reference_images": [{"image_url": "2"}, {"image_url": "1"}],
    "prompt": "watercolor fox",
    "negative_prompt": "blurry",
    "num_inference_steps": 3,
    "guidance_scale": 1.4,
    "seed": 2,
    "id_scale": 1.5,
    "mode": "extreme style",
    "id_mix": True,
}


def draw_references(pipeline: PuLIDPipeline, body: dict[str, Any]) -> torch.Tensor:
    """A body's latents; its URLs are the numbers of recorded photos."""
    asked = PulidInput.model_validate(body)
    assert isinstance(pipeline.faces, RecordedFaces)
    return draw(pipeline, asked.request(), [pipeline.faces.photo(int(image.url)) for image in asked.images()])


@pytest.mark.parametrize("field", REFERENCE_CHANGES)
def test_every_field_of_pulids_api_changes_the_picture(pulid: PuLIDPipeline, field: str) -> None:
    changed = REFERENCES | {field: REFERENCE_CHANGES[field]}
    assert change_of(draw_references(pulid, changed), draw_references(pulid, REFERENCES)) >= LEAST


def test_pulids_sizes_and_number_of_images_are_those_asked_for(pulid: PuLIDPipeline) -> None:
    asked = REFERENCES | {"num_images": 2, "image_size": {"width": 256, "height": 264}}
    drawn = draw_references(pulid, asked)
    assert drawn.shape == (2, 4, 33, 32)
    assert change_of(drawn[0], drawn[1]) >= LEAST


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"guidance_scale": 0.5}, {"guidance_scale": 1.0}),
        ({"guidance_scale": 1.0}, {"guidance_scale": 1.0, "negative_prompt": "blurry"}),
        ({"id_scale": 0.0}, {"id_scale": 0.0, "mode": "extreme style", "id_mix": True}),
    ],
    ids=str,
)
def test_what_is_off_in_a_pulid_request_changes_nothing(pulid: PuLIDPipeline, one: dict, other: dict) -> None:
    request = PuLIDRequest("portrait", width=64, height=64, seed=1, num_inference_steps=2)
    faces = pulid.faces
    assert isinstance(faces, RecordedFaces)
    photos = [faces.photo(0), faces.photo(1)]
    assert torch.equal(draw(pulid, replace(request, **one), photos), draw(pulid, replace(request, **other), photos))
    if not one.get("id_scale", 1):
        assert torch.equal(draw(pulid, replace(request, **one), photos), draw(pulid, request, []))


def test_no_field_is_forgotten() -> None:
    assert set(FACE_CHANGES) == set(InstantidLcmInput.model_fields) - ELSEWHERE
    assert set(REFERENCE_CHANGES) | {"num_images"} == set(PulidInput.model_fields) - ELSEWHERE
    named = {field.name for kind in (InstantIDRequest, PuLIDRequest) for field in fields(kind)}
    assert named <= set(FACE_CHANGES) | set(REFERENCE_CHANGES) | ELSEWHERE | {"controls", "num_images"}
