"""How much a denoising step asks of the host and the GPU, counted on networks of SDXL's depth and tiny width."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.sdxl.attention import cross_attentions
from pipelines.sdxl.denoise import Step
from scripts import full_depth
from tests.op_counter import HOST_READS, OpCounter, counting

PLAIN_DIFFUSERS = 1862
"""Launches of one call of diffusers' UNet with diffusers' attention, without identity: the yardstick."""

MOST = {"instantid": 1600, "pulid fidelity": 2150, "pulid extreme style": 1940}
"""Launches of one UNet call. Upstream makes 5,855 (InstantID, LoRA unfused) and 3,823 and 3,263 (PuLID)."""

CASTS = 5
"""Launches that half precision may add: the time embedding's casts, and none in the attention."""

Pipeline = InstantIDPipeline | PuLIDPipeline


@dataclass(frozen=True)
class Work:
    """One step of a pipeline, ready to run."""

    pipeline: Pipeline
    step: Step
    latents: Tensor


@pytest.fixture(scope="module", autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=["float32", "float16"])
def works(request: pytest.FixtureRequest) -> dict[str, Work]:
    dtype = getattr(torch, request.param)
    instantid, pulid = full_depth.instantid(dtype), full_depth.pulid(dtype)
    return {
        "instantid": Work(instantid, *full_depth.instantid_step(instantid)),
        "instantid unmasked": Work(instantid, *full_depth.instantid_step(instantid, enhance_face_region=False)),
        "pulid fidelity": Work(pulid, *full_depth.pulid_step(pulid)),
        "pulid extreme style": Work(pulid, *full_depth.pulid_step(pulid, mode="extreme style")),
    }


@pytest.mark.parametrize("name", MOST)
def test_a_unet_call_launches_no_more_than_this(works: dict[str, Work], name: str) -> None:
    work = works[name]
    with counting(work.pipeline.unet) as counter:
        work.step(work.latents, 0)
    casts = counter.calls["_to_copy"]
    print(f"{name}, {work.pipeline.unet.dtype}: {counter.launches} launches, of which {casts} are casts")
    assert len(cross_attentions(work.pipeline.unet)) == 70
    assert counter.launches <= MOST[name]
    assert casts <= CASTS
    assert counter.namespaces == {"aten"}, "a custom operation would hide what it does"


def test_diffusers_own_unet_without_identity_launches_more_than_ours_with_it() -> None:
    unet = full_depth.unet("instantid/base")
    unet.set_attn_processor(AttnProcessor2_0())
    text = torch.randn(2, 77, unet.config["cross_attention_dim"])
    pooled = unet.config["projection_class_embeddings_input_dim"] - 6 * unet.config["addition_time_embed_dim"]
    added = {"text_embeds": torch.randn(2, pooled), "time_ids": torch.full((2, 6), 64.0)}
    with counting(unet) as counter:
        unet(torch.randn(2, 4, 8, 8), torch.tensor(5.0), text, added_cond_kwargs=added)
    assert abs(counter.launches - PLAIN_DIFFUSERS) <= 5
    assert counter.launches > MOST["instantid"]


def test_the_faces_box_is_heeded_and_costs_the_unet_nothing(works: dict[str, Work]) -> None:
    masked, everywhere = works["instantid"], works["instantid unmasked"]
    launches, latents = [], []
    for work in (masked, everywhere):
        with counting(work.pipeline.unet) as counter:
            latents.append(work.step(work.latents, 0))
        launches.append(counter.launches)
    assert (latents[0] - latents[1]).abs().max() > 1e-3 * latents[1].abs().max()
    assert launches[0] == launches[1]


@pytest.mark.parametrize("name", MOST)
def test_a_step_projects_and_embeds_nothing_that_stays_the_same(works: dict[str, Work], name: str) -> None:
    work = works[name]
    with calls_of(constant_parts(work.pipeline)) as calls:
        latents = work.latents
        for i in range(3):
            latents = work.step(latents, i)
    assert not calls


@pytest.mark.parametrize(
    ("build", "first"),
    [(full_depth.instantid, full_depth.instantid_step), (full_depth.pulid, full_depth.pulid_step)],
)
def test_what_stays_the_same_is_projected_before_the_first_step(build: Callable, first: Callable) -> None:
    pipeline = build()
    parts = constant_parts(pipeline)
    with calls_of(parts) as calls:
        first(pipeline)
    assert calls == Counter(list(parts))


@pytest.mark.parametrize("name", MOST)
def test_a_step_never_waits_for_the_device(works: dict[str, Work], name: str) -> None:
    work = works[name]
    with OpCounter() as counter:
        latents = work.step(work.latents, 0)
        work.step(latents, 1)
    assert counter.launches > 2 * 1442
    assert not HOST_READS & counter.calls.keys()


def test_reading_a_value_on_the_host_is_what_the_test_above_looks_for() -> None:
    with OpCounter() as counter:
        torch.ones(()).item()
        torch.ones(3).nonzero()
        torch.tensor([1.0])
    assert {"_local_scalar_dense", "nonzero", "lift_fresh"} <= counter.calls.keys()


def constant_parts(pipeline: Pipeline) -> dict[str, nn.Module]:
    """Every module whose result no step changes, by name."""
    nets: dict[str, nn.Module] = {"unet": pipeline.unet}
    parts: dict[str, nn.Module] = {}
    if isinstance(pipeline, InstantIDPipeline):
        nets |= {"identity net": pipeline.identity_net, "canny": pipeline.controlnets["canny"]}
        parts["resampler"] = pipeline.resampler
    for name, net in nets.items():
        if name != "unet":
            parts[f"{name} condition"] = net.get_submodule("condition_embedding")
        for layer, attn in enumerate(cross_attentions(net)):
            parts |= {f"{name} {layer} key": attn.to_k, f"{name} {layer} value": attn.to_v}
    linear = [m for m in pipeline.identity_layers.modules() if isinstance(m, nn.Linear)]
    return parts | {f"identity {i}": module for i, module in enumerate(linear)}


@contextmanager
def calls_of(modules: dict[str, nn.Module]) -> Iterator[Counter[str]]:
    """Counts the calls of these modules by name."""
    calls: Counter[str] = Counter()
    hooks = [m.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, m in modules.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
