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
    Context,
    CrossAttention,
    Identity,
    IdentityAttention,
    IdentityMode,
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
def test_the_face_is_parsed_painted_and_resized_as_upstream_does(pipeline, index):
    """Labels are equal but where the two best scores differ by less than 4 units in the last place of a float32."""
    golden = load_file(CASES / f"ref{index}.safetensors")
    rgb = golden["aligned_bgr"].flip(-1).permute(2, 0, 1)[None].float() / 255
    scores = []
    hook = pipeline.face_parser.conv_out.register_forward_hook(lambda net, given, out: scores.append(out))
    with torch.inference_mode():
        ours = face_only(pipeline.face_parser, rgb)
        small = clip_input(ours, pipeline.eva.image_size)
    hook.remove()
    scores = torch.nn.functional.interpolate(scores[0], (512, 512), mode="bilinear", align_corners=True)[0]
    best = scores.topk(2, 0).values
    differing = scores.argmax(0) != golden["parse_labels"]
    assert bool((best[0] - best[1])[differing].le(4 * 2**-23 * best[0][differing].abs()).all())
    theirs = golden["gray_white_u8"].permute(2, 0, 1)[None].float() / 255
    assert ((ours - theirs).abs()[..., ~differing] <= 1.01 / 255).all()
    assert (small - golden["eva_in"]).abs().max() <= 1e-5


@pytest.mark.parametrize("index", range(4))
def test_the_tower_sees_what_upstreams_sees(pipeline, index):
    golden = load_file(CASES / f"ref{index}.safetensors")
    with torch.inference_mode():
        embedding, hidden = pipeline.eva(golden["eva_in"])
    assert (embedding - golden["eva_out"]).abs().max() <= 1e-5
    for i, state in enumerate(hidden):
        recorded = golden[f"eva_hidden_{i}"]
        assert (state - recorded).abs().max() <= 1e-5 * recorded.abs().max()


@pytest.mark.parametrize("name", [n for n in UNITS["cases"] if n != "none" and not n.endswith("quirk")])
def test_one_cross_attention_with_identity(name):
    """Every mode, also those of other versions; the quirk is upstream's accident at guidance 1 (decision 0005)."""
    tensors, case = load_file(CASES / "units" / "attention.safetensors"), unit_case(name)
    dtype = getattr(torch, case.get("dtype", "float32"))
    attn = Attention(query_dim=32, cross_attention_dim=64, heads=2, dim_head=16, bias=False)
    attn.load_state_dict({k.removeprefix("attn."): v for k, v in tensors.items() if k.startswith("attn.")})
    attn.to(dtype)
    layer = IdentityAttention(64, 32, ("id_to_k", "id_to_v"))
    layer.load_state_dict({f"{n}.weight": find(tensors, f"{n}.weight") for n in ("id_to_k", "id_to_v")})
    with torch.inference_mode():
        text, hidden, tokens = tensors[case["text"]].to(dtype), tensors[case["hidden"]].to(dtype), tensors[case["id"]]
        kv = layer.to(dtype).project(tokens[-len(hidden) :].to(dtype), 2, case["mode"])
        scale = torch.full((len(hidden), 1, 1, 1), case["id_scale"], dtype=dtype)
        keys_values = KeysValues(*(split_heads(to(text), 2) for to in (attn.to_k, attn.to_v)))
        context = Context([keys_values], Identity([kv], scale, case["mode"]))
        out = CrossAttention(attn, 0)(hidden, context)
    recorded = tensors[f"out.{name}"].float()
    error = (out.float() - recorded).abs().max()
    reachable = name.startswith(("off_", "fidelity_", "extreme_"))
    if dtype != torch.float32 or not reachable:  # the spec's half-precision bounds are for outputs of about 1
        error /= recorded.abs().max().clamp(min=1)
    assert error <= {torch.float32: 2e-6, torch.float16: 1.3e-3, torch.bfloat16: 9.3e-3}[dtype]


def unit_case(name):
    """A recorded call's settings; the short entries leave out what their family's first entry says."""
    family = re.match(r"(.+?)_(?:n\d+|batch1)", name)[1]
    first = UNITS["cases"][f"{family}_n10_s0.8"]
    case = first | UNITS["cases"][name]
    projection = "orthogonal" if first["ortho"] else "soft" if first["ortho_v2"] else "none"
    return case | {"id": case["id"].removesuffix("[1:]"), "mode": IdentityMode(first["num_zero"], projection)}


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


def test_the_sampler_ends_at_zero_when_the_profile_says_so(pipeline, faces):
    profile = Profile(device="cpu", dtype="float32", final_sigmas="zero")
    ends_at_zero = PuLIDPipeline.load(WEIGHTS, profile, faces=faces)
    request = PuLIDRequest("portrait", width=64, height=64, seed=1)
    one, other = (p.generate([p.prepare(request, [])], never, "raw")[0][0] for p in (pipeline, ends_at_zero))
    difference = (one.latents - other.latents).abs().max()
    assert 1e-3 < difference < 0.3, "about 0.029 times standard noise (pulid.md §0.2)"


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
    with pytest.raises(NotImplementedError, match="PuLIDPipeline cannot be saved"):
        pipeline.save_pretrained(tmp_path)


def never(step: int, total: int) -> bool:
    return False
