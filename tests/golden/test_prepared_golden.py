"""What `veraicon weights prepare` makes gives upstream's pictures too: exactly as float32, nearly as float16."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.prepare import prepare
from pipelines.profile import Profile
from pipelines.pulid.pipeline import PuLIDPipeline
from scripts import replay_instantid, replay_pulid

ROOT = Path(__file__).parents[2]
TINY, GOLDEN = ROOT / "weights" / "tiny", Path(__file__).parent
PICKLES = ("pulid/pulid_v1.bin", "eva_clip/EVA02_CLIP_L_336_psz14_s6B.pt", "facexlib/parsing_bisenet.pth")
TOLERANCES = [("float32", 1e-5), ("float16", 5e-3)]


def first_case(model: str) -> dict:
    return json.loads((GOLDEN / model / "index.json").read_text())["cases"][0]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_the_fused_unet_and_the_adapter_give_upstreams_picture(tmp_path: Path, dtype: str, tolerance: float) -> None:
    """The LoRA is added in float32 and rounded once; the files it came from are not read again."""
    folder = Path(shutil.copytree(TINY / "instantid", tmp_path / "instantid"))
    for name in ("lcm_unet.safetensors", "ip-adapter.safetensors"):
        prepare(folder / name, getattr(torch, dtype))
    for gone in ("pytorch_lora_weights.safetensors", "ip-adapter.bin", "base/unet/diffusion_pytorch_model.safetensors"):
        (folder / gone).unlink()
    with safe_open(folder / "lcm_unet.safetensors", "pt") as opened:
        assert {opened.get_tensor(key).dtype for key in opened.keys()} == {getattr(torch, dtype)}  # noqa: SIM118
    profile = Profile(device="cpu", dtype="float32", prepared=True)
    pipeline = InstantIDPipeline.load(folder, profile, faces=replay_instantid.RecordedFaces())
    with np.load(GOLDEN / "instantid" / "cases" / "base.npz") as golden:
        result = replay_instantid.run_case(pipeline, first_case("instantid"), dict(golden))
    assert result.latents_rel <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-5), ("float16", 5e-3)])
def test_the_converted_pickles_give_upstreams_picture(tmp_path: Path, dtype: str, tolerance: float) -> None:
    folder = Path(shutil.copytree(TINY / "pulid", tmp_path / "pulid"))
    for name in PICKLES:
        prepare((folder / name).with_suffix(".safetensors"), getattr(torch, dtype))
        (folder / name).unlink()
    cases = GOLDEN / "pulid" / "cases"
    faces = replay_pulid.RecordedFaces(cases)
    pipeline = PuLIDPipeline.load(folder, Profile(device="cpu", dtype="float32", prepared=True), faces=faces)
    result = replay_pulid.run_case(pipeline, faces, first_case("pulid"), cases)
    assert result.latents_rel <= tolerance
