"""The parts of InstantID against upstream's recorded units: sizes, keypoint pictures, masks, edges, Resampler."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.checkpoint import load_state
from pipelines.errors import FeatureNotSupported, ImageTooSmall, InputError, LoadError
from pipelines.instantid.controls import Estimators, canny, control_image
from pipelines.instantid.endpoint import Control
from pipelines.instantid.identity_net import attention_masks, face_masks, residual_masks
from pipelines.instantid.keypoints import draw_kps
from pipelines.instantid.photo import clamp_box, fit, fitted_sizes
from pipelines.instantid.resampler import Resampler
from pipelines.instantid.styles import TEMPLATES, apply_style

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/instantid"
ADAPTER = ROOT / "weights/tiny/instantid/ip-adapter"
UNITS = np.load(GOLDEN / "cases/extras.npz")
EXTRAS = json.loads((GOLDEN / "index.json").read_text())["extras"]


@pytest.mark.parametrize("row", EXTRAS["resize_table"], ids=lambda row: "x".join(map(str, row["size"])))
def test_a_photo_gets_the_size_that_upstream_gives_it(row: dict) -> None:
    assert fitted_sizes(tuple(row["size"]), 1024)[1] == tuple(row["max_side_1024"])
    assert fitted_sizes(tuple(row["size"]), 1280)[1] == tuple(row["max_side_1280"])


@pytest.mark.parametrize("name", ["a", "b", "e"])
def test_a_photo_is_resized_to_the_same_pixels(name: str) -> None:
    fact = EXTRAS[f"resize_{name}"]
    fitted = fit(Image.fromarray(UNITS[f"resize_in_{name}"]), fact["max_side"], fact["min_side"])
    assert np.array_equal(np.asarray(fitted), UNITS[f"resize_out_{name}"])


def test_a_photo_too_thin_for_the_network_is_refused_with_the_side_that_it_needs() -> None:
    with pytest.raises(ImageTooSmall, match="shorter side") as caught:
        fit(Image.new("RGB", (100, 3000)), 1280)
    assert caught.value.loc == ("face_image_url",)
    least = caught.value.ctx["min_width"]
    assert min(fit(Image.new("RGB", (least, 3000)), 1280).size) == 64


@pytest.mark.parametrize("name", ["frontal", "tilted", "profile", "off_canvas", "hires"])
def test_keypoints_are_drawn_to_the_same_pixels(name: str) -> None:
    drawn = draw_kps(tuple(EXTRAS[f"kps_{name}"]), UNITS[f"kps_in_{name}"])
    assert np.array_equal(drawn, UNITS[f"kps_out_{name}"])


@pytest.mark.parametrize("name", ["a", "c", "d"])
def test_masks_weigh_residuals_and_attention_as_upstream(name: str) -> None:
    width, height = EXTRAS[f"mask_{name}"]
    masks = face_masks([clamp_box(UNITS[f"mask_bbox_{name}"], (width, height))], (width, height))
    residuals, attention = residual_masks(masks, 3), attention_masks(masks, 3)
    for stride in (8, 16, 32):
        expected = UNITS[f"mask_w{stride}_{name}"]
        assert np.abs(residuals[expected.shape[2:]].numpy() - expected).max() < 1e-6
    for stride in (16, 32):
        expected = UNITS[f"mask_attn{stride}_{name}"]
        assert np.array_equal(attention[expected.shape[1]][:, 0].numpy(), expected)


def test_a_box_beyond_the_photo_keeps_its_visible_part_where_upstream_lost_it() -> None:
    bbox, size = UNITS["mask_bbox_b"], EXTRAS["mask_b"]
    assert bbox.min() < 0
    assert not UNITS["mask_w8_b"].any()
    assert face_masks([clamp_box(bbox, tuple(size))], tuple(size)).any()


@pytest.mark.parametrize("name", ["a", "b"])
def test_edges_are_found_at_the_same_pixels(name: str) -> None:
    edges = canny(Image.fromarray(UNITS[f"canny_in_{name}"]))
    assert all(np.array_equal(edges[:, :, channel], UNITS[f"canny_out_{name}"]) for channel in range(3))


def test_a_control_without_estimator_needs_its_own_image() -> None:
    photo = Image.new("RGB", (64, 96))
    with pytest.raises(FeatureNotSupported, match="pose") as caught:
        control_image(Control("pose", 0.4), photo, photo.size, Estimators())
    assert (caught.value.loc, caught.value.type) == (("controlnet_selection",), "feature_not_supported")
    given = control_image(Control("pose", 0.4, Image.new("L", (32, 32), 255)), photo, photo.size, Estimators())
    assert given.image.shape == (96, 64, 3)
    assert given.image.min() == 255


def test_a_control_made_from_the_photo_needs_a_photo() -> None:
    with pytest.raises(InputError, match="no photo"):
        control_image(Control("canny", 0.4), None, (64, 64), Estimators())


@pytest.mark.parametrize("name", ["e0", "e1", "zeros", "pair"])
def test_the_resampler_gives_the_same_face_tokens(name: str) -> None:
    state, file = load_state(ADAPTER)
    with torch.inference_mode():
        tokens = Resampler.from_state(state["image_proj"], file)(torch.from_numpy(UNITS[f"resampler_in_{name}"]))
    assert np.abs(tokens.numpy() - UNITS[f"resampler_out_{name}"]).max() < 1e-5


@pytest.mark.parametrize("key", ["latents", "layers.2.1.3.weight", "norm_out.bias"])
def test_a_resampler_file_with_a_missing_key_is_refused_by_name(key: str) -> None:
    state, file = load_state(ADAPTER)
    rest = {name: tensor for name, tensor in state["image_proj"].items() if name != key}
    with pytest.raises(LoadError, match=f"(?s)ip-adapter.bin.*{key}") as caught:
        Resampler.from_state(rest, file)
    assert str(file) in str(caught.value)


def test_every_style_of_the_api_has_a_template_and_keeps_the_prompt() -> None:
    assert list(TEMPLATES) == [
        "(No style)", "Headshot", "Spring Festival", "Watercolor", "Film Noir", "Neon", "Jungle", "Mars",
        "Vibrant Color", "Snow", "Line art",
    ]  # fmt: skip
    for style in TEMPLATES:
        prompt, negative = apply_style(style, "a {cat} in a hat", "blurry")
        assert "a {cat} in a hat" in prompt
        assert negative.endswith(" blurry")
    assert apply_style("(No style)", "a cat", "blurry") == ("a cat", " blurry")
