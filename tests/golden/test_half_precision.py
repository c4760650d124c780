"""What bfloat16 costs: no more than it costs diffusers' own networks, and nothing outside of the UNet."""

from pathlib import Path

import pytest
import torch

from pipelines.profile import Profile
from pipelines.sdxl.device import weight_of
from pipelines.sdxl.load import load_parts
from scripts.gpu.checks import golden_checks
from scripts.gpu.models import BASES, Model

ROOT = Path(__file__).parents[2]
FEW = 3
"""Recorded requests of each model; `make gpu-check` replays all of them."""


@pytest.mark.parametrize("model", ["instantid", "pulid"])
def test_bfloat16_errs_no_more_than_diffusers_own_networks_do(model: Model) -> None:
    torch.set_num_threads(1)
    middle, worst, *_ = golden_checks("cpu", ["bfloat16"], FEW, [model])
    assert 0.4 < middle.error <= middle.bar, f"{middle}: a yardstick that errs much more than we do is none"
    assert 0.4 < worst.error <= worst.bar, worst


@pytest.mark.parametrize("base", BASES.values())
def test_texts_and_pictures_are_computed_in_float16_beside_a_unet_in_bfloat16(base: str) -> None:
    parts = load_parts(ROOT / "weights/tiny" / base, Profile(device="cpu", dtype="bfloat16"))
    for net in (parts.text_encoder, parts.text_encoder_2):
        assert weight_of(net).dtype == torch.float16
    assert weight_of(parts.vae).dtype in {torch.float16, torch.float32}, "float32 when the base's overflows in half"
