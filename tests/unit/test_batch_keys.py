"""Which requests may be generated together, as far as their bodies tell."""

from typing import Any

import pytest

from pipelines.endpoint import Endpoint
from pipelines.instantid.endpoint import INSTANTID_LCM
from pipelines.pulid.endpoint import PULID
from tests.pipelines.gate import GATE

INSTANTID_BODY = {"face_image_url": "http://host/a.png", "prompt": "man"}
PULID_BODY = {"reference_images": [{"image_url": "http://host/a.png"}], "prompt": "man"}


def key(endpoint: Endpoint, body: dict[str, Any], **more: Any) -> str:
    return endpoint.input.model_validate(body | more).batch_key()


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "woman", "face_image_url": "http://host/b.png", "seed": 5, "negative_prompt": "hat"},
        {"guidance_scale": 2.5, "ip_adapter_scale": 0.1, "identity_controlnet_conditioning_scale": 1.5},
        {"controlnet_conditioning_scale": 1.0, "style": "Neon", "model_name": ""},
    ],
)
def test_instantids_that_differ_in_values_alone_go_together(other):
    assert key(INSTANTID_LCM, INSTANTID_BODY, **other) == key(INSTANTID_LCM, INSTANTID_BODY) != ""


@pytest.mark.parametrize(
    "other",
    [
        {"num_inference_steps": 6},
        {"guidance_scale": 1},
        {"controlnet_selection": "pose"},
        {"controlnet_selection": None},
        {"controlnet_conditioning_scale": 0},
        {"ip_adapter_scale": 0},
        {"identity_controlnet_conditioning_scale": 0},
        {"enhance_face_region": False},
        {"model_name": "other"},
    ],
)
def test_instantids_that_need_other_networks_or_steps_do_not(other):
    assert key(INSTANTID_LCM, INSTANTID_BODY, **other) != key(INSTANTID_LCM, INSTANTID_BODY)


def test_no_control_is_no_control_however_it_is_said():
    silent = key(INSTANTID_LCM, INSTANTID_BODY, controlnet_conditioning_scale=0)
    assert key(INSTANTID_LCM, INSTANTID_BODY, controlnet_selection=None) == silent


def test_pulids_that_differ_in_values_alone_go_together():
    other = {"prompt": "woman", "seed": 5, "id_scale": 0.5, "guidance_scale": 1.4, "image_size": "portrait_4_3"}
    assert key(PULID, PULID_BODY, **other) == key(PULID, PULID_BODY) != ""


@pytest.mark.parametrize(
    "other",
    [
        {"num_inference_steps": 5},
        {"guidance_scale": 1},
        {"image_size": "square"},
        {"mode": "extreme style"},
        {"id_mix": True},
        {"reference_images": PULID_BODY["reference_images"] * 2},
    ],
)
def test_pulids_of_other_shapes_do_not(other):
    assert key(PULID, PULID_BODY, **other) != key(PULID, PULID_BODY)


def test_who_wants_several_pictures_has_a_batch_of_its_own():
    assert key(PULID, PULID_BODY, num_images=2) == ""


def test_a_key_is_short_whatever_the_client_writes():
    """It is part of an index, and PostgreSQL refuses long entries."""
    assert len(key(INSTANTID_LCM, INSTANTID_BODY, model_name="\ud800" + "x" * 60_000)) == 32


def test_an_endpoint_that_says_nothing_is_generated_alone():
    assert key(GATE, {"folder": "/"}) == ""
