"""PuLID against what upstream computed on the same tiny weights (tests/golden/pulid)."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from safetensors.torch import load_file

from pipelines.errors import LoadError
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.identity import clip_input, encode_photos, face_only, merge_photos
from pipelines.pulid.nets.eva import EVAVisionTower
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.sdxl.attention import (
    EXTREME_STYLE,
    FIDELITY,
    PLAIN,
    Context,
    CrossAttention,
    Identity,
    IdentityAttention,
    KeysValues,
    split_heads,
)
from pipelines.sdxl.samplers import dpm_table
from scripts.replay_pulid import RecordedFaces, run_case

GOLDEN = Path(__file__).parent / "pulid"
CASES = GOLDEN / "cases"
WEIGHTS = Path(__file__).parents[2] / "weights" / "tiny" / "pulid"
INDEX = json.loads((GOLDEN / "index.json").read_text())
UNITS = json.loads((CASES / "units" / "attention.json").read_text())
MODES = {"off": PLAIN, "fidelity": FIDELITY, "extreme": EXTREME_STYLE}
UNIT_NAME = re.compile(r"(off|fidelity|extreme)_n(\d+)_s([\d.]+)$")


@pytest.fixture(scope="module")
def faces() -> RecordedFaces:
    return RecordedFaces(CASES)


@pytest.fixture(scope="module")
def pipeline(faces: RecordedFaces) -> PuLIDPipeline:
    torch.set_num_threads(1)
    return PuLIDPipeline.load(WEIGHTS, Profile(device="cpu", dtype="float32"), faces=faces)


@pytest.mark.parametrize("case", INDEX["cases"], ids=lambda case: case["name"])
def test_a_recorded_request_gives_upstreams_picture(pipeline, faces, case):
    result = run_case(pipeline, faces, case, CASES)
    assert result.latents_rel <= 5e-5
    assert result.image_max <= 1e-4


@pytest.mark.parametrize("index", range(4))
def test_a_photo_gives_upstreams_identity_tokens(pipeline, index):
    golden = load_file(CASES / f"ref{index}.safetensors")
    crop = golden["aligned_bgr"].numpy()[:, :, ::-1].copy()
    nets = (pipeline.face_parser, pipeline.eva, pipeline.id_encoder)
    with torch.inference_mode():
        tokens = encode_photos(nets, [crop], [golden["arcface"][0].numpy()])
    assert (tokens - golden["id_embedding"]).abs().max() <= 1e-5
    assert (pipeline.unconditional_identity - golden["uncond_id_embedding"]).abs().max() <= 1e-5


@pytest.mark.parametrize("index", range(4))
def test_the_background_is_painted_white_and_the_face_grey(pipeline, index):
    golden = load_file(CASES / f"ref{index}.safetensors")
    rgb = golden["aligned_bgr"].flip(-1).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        ours = face_only(pipeline.face_parser, rgb)
        small = clip_input(ours, pipeline.eva.image_size)
    theirs = golden["gray_white_u8"].permute(2, 0, 1)[None].float() / 255
    differing = ((ours - theirs).abs() > 1.01 / 255).any(1).sum()
    assert differing <= 2, "labels may tie in single pixels"
    assert (small - golden["eva_in"]).abs().max() <= 1e-2


@pytest.mark.parametrize("name", [name for name in UNITS["cases"] if UNIT_NAME.match(name)])
def test_one_cross_attention_with_identity(name):
    kind, tokens, scale = UNIT_NAME.match(name).groups()
    tensors = load_file(CASES / "units" / "attention.safetensors")
    attn = Attention(query_dim=32, cross_attention_dim=64, heads=2, dim_head=16, bias=False)
    attn.load_state_dict({k.removeprefix("attn."): v for k, v in tensors.items() if k.startswith("attn.")})
    layer = IdentityAttention(64, 32, ("id_to_k", "id_to_v"))
    layer.load_state_dict({f"{n}.weight": find(tensors, f"{n}.weight") for n in ("id_to_k", "id_to_v")})
    mode, case = MODES[kind], UNITS["cases"][name]
    with torch.inference_mode():
        kv = layer.project(tensors[f"id_{tokens}"], 2, mode)
        text = tensors[case["text"]]
        identity = Identity([kv], torch.full((2, 1, 1, 1), float(scale)), mode)
        context = Context([KeysValues(*(split_heads(to(text), 2) for to in (attn.to_k, attn.to_v)))], identity)
        out = CrossAttention(attn, 0)(tensors[case["hidden"]], context)
    assert (out - tensors[f"out.{name}"]).abs().max() <= 5e-6


def find(tensors, suffix):
    return next(value for key, value in tensors.items() if key.endswith(suffix))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 14, 15, 20, 25])
def test_the_sampler_equals_diffusers_0_25_on_an_analytic_denoiser(steps):
    golden = load_file(CASES / "units" / "sampler_v1.safetensors")
    config = DPMSolverMultistepScheduler.load_config(WEIGHTS / "sdxl_base" / "scheduler")
    scheduler = DPMSolverMultistepScheduler.from_config(
        config, timestep_spacing="trailing", final_sigmas_type="sigma_min"
    )
    table = dpm_table(scheduler, steps, torch.device("cpu"))
    assert table.timesteps.tolist() == golden[f"n{steps}.timesteps"].tolist()
    x = golden["x0"]
    previous = torch.zeros_like(x)
    for i, t in enumerate(table.timesteps):
        noise = 0.6 * x + 0.3 * torch.sin(3 * x + t / 200) + 0.1 * torch.cos(t / 70)
        x, previous = table.step(x, noise, i, previous)
    final = golden[f"n{steps}.latents"][-1]
    assert (x - final).abs().max() <= 2e-5 * final.abs().max()


def test_requests_of_one_batch_give_the_pictures_they_give_alone(pipeline, faces):
    requests = [
        PuLIDRequest("portrait", width=64, height=64, seed=1, num_images=2, id_scale=0.5),
        PuLIDRequest("man in garden", width=64, height=64, seed=2, id_scale=1.5, guidance_scale=1.4),
    ]
    prepared = [pipeline.prepare(r, [faces.photo(i)]) for i, r in enumerate(requests)]
    assert prepared[0].batch_key == prepared[1].batch_key
    together = pipeline.generate(prepared, never, "raw")
    for one, batch in zip(prepared, together, strict=True):
        (alone,) = pipeline.generate([one], never, "raw")
        for a, b in zip(alone, batch, strict=True):
            assert (a.image - b.image).abs().max() <= 1e-5


def test_the_first_picture_does_not_depend_on_how_many_are_asked_for(pipeline):
    one, three = (
        pipeline.generate(
            [pipeline.prepare(PuLIDRequest("portrait", width=104, height=72, seed=5, num_images=n), [])], never
        )[0]
        for n in (1, 3)
    )
    assert len(three) == 3
    assert np.abs(one[0].image.astype(int) - three[0].image.astype(int)).max() <= 1
    assert np.abs(one[0].image.astype(int) - three[1].image.astype(int)).max() > 8


def test_text_and_identity_are_projected_once_however_many_steps(pipeline, faces):
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    cross = [m for name, m in pipeline.unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    layers = [m for m in pipeline.identity_layers.modules() if isinstance(m, torch.nn.Linear)]
    hooks = [m.register_forward_hook(count) for m in cross + layers]
    try:
        pipeline.generate([pipeline.prepare(PuLIDRequest("x", width=64, height=64, seed=0), [faces.photo(0)])], never)
    finally:
        for hook in hooks:
            hook.remove()
    assert calls == len(cross) + len(layers) > 0


def test_merging_photos_keeps_the_first_whole_and_the_others_bodies():
    tokens = torch.arange(30.0).view(3, 10, 1)
    assert merge_photos(tokens, mix=True).flatten().tolist() == list(range(30))
    assert merge_photos(tokens, mix=False).flatten().tolist() == [*range(10), *range(10, 15), *range(20, 25)]


def test_a_missing_checkpoint_is_named(tmp_path):
    (tmp_path / "pulid").symlink_to(WEIGHTS)
    broken = tmp_path / "broken"
    broken.mkdir()
    for part in WEIGHTS.iterdir():
        if part.name != "eva_clip":
            (broken / part.name).symlink_to(part)
    with pytest.raises(LoadError, match="EVA02_CLIP_L_336_psz14_s6B"):
        PuLIDPipeline.load(broken, Profile(device="cpu", dtype="float32"), faces=RecordedFaces(CASES))


def test_a_checkpoint_of_another_network_is_refused_with_its_name():
    state = torch.load(WEIGHTS / "eva_clip" / "EVA02_CLIP_L_336_psz14_s6B.pt", weights_only=True)
    del state["visual.blocks.3.attn.q_bias"]
    with pytest.raises(LoadError, match=r"somewhere\.pt does not fit EVAVisionTower"):
        EVAVisionTower.from_state(state, WEIGHTS / "eva_clip" / "somewhere.pt")


def test_cuda_without_a_gpu_is_refused_and_never_replaced():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(LoadError, match="veraicon doctor"):
        PuLIDPipeline.load(WEIGHTS, Profile(device="cuda"), faces=RecordedFaces(CASES))


def test_the_notebook_call_gives_pictures(pipeline, faces):
    seen = []
    (picture,) = pipeline(
        "portrait",
        image=faces.photo(0),
        width=64,
        height=72,
        seed=3,
        callback_on_step_end=lambda pipe, step, timestep, state: seen.append(step) or {},
    )
    assert picture.size == (64, 72)
    assert seen == [0, 1, 2, 3]


def test_saving_by_diffusers_is_refused(pipeline, tmp_path):
    with pytest.raises(NotImplementedError, match="veraicon"):
        pipeline.save_pretrained(tmp_path)


def never(step: int, total: int) -> bool:
    return False
