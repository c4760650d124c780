"""Cards with little memory: what fits is told, and networks are on the device whenever they run, and only then."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.errors import LoadError
from pipelines.instantid.endpoint import InstantIDRequest
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.memory import GIB, Stage, budget_of, choose, decode_scratch, plan, step_scratch
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.sdxl.load import resolved
from pipelines.sdxl.residents import Residents, size_of
from pipelines.shelf import Shelf
from scripts import full_depth
from server.settings import Settings
from server.worker.models import profile_of

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("gib", "memory"), [(11.99, "12gb"), (15.7, "16gb"), (22.2, "24gb"), (23.7, "24gb"), (31.4, "48gb"), (139, "48gb")]
)
def test_the_card_chooses_the_profile(gib: float, memory: str) -> None:
    assert choose(round(gib * GIB)) == memory


def test_a_card_that_is_too_small_is_refused_with_what_to_do() -> None:
    with pytest.raises(LoadError, match=r"7\.8 GiB.*VERAICON_DEVICE=cpu"):
        choose(round(7.8 * GIB))


def test_the_counted_figures_are_covered() -> None:
    """performance.md §1.3: a step 0.39 GB and half-precision decoding 1.89 GB at 960x1280."""
    assert 0.39e9 <= step_scratch(2, 960, 1280) <= 0.6e9
    assert 1.89e9 <= decode_scratch(960, 1280, 2) <= 2.2e9


INSTANTID = Stage("InstantID", {"unet": 5_817, "identity net": 2_502, "canny": 2_502}, 500)
PULID = Stage("PuLID", {"pulid unet": 5_817}, 400)


@pytest.mark.parametrize(
    ("memory", "fits", "stays"), [("12gb", True, False), ("16gb", True, False), ("24gb", True, True)]
)
def test_a_plan_says_whether_all_stay(memory: Any, fits: bool, stays: bool) -> None:
    stages = [
        Stage(s.name, {k: v * 10**6 for k, v in s.weights.items()}, s.scratch * 10**6) for s in (INSTANTID, PULID)
    ]
    made = plan(memory, stages)
    assert (made.fits, made.stays) == (fits, stays)
    assert any(line.startswith("InstantID: 11.3 GB of") for line in made.lines)
    assert ("all networks stay" in made.lines[-1]) == stays


def test_a_plan_names_what_does_not_fit() -> None:
    made = plan("12gb", [Stage("both at once", {"net": 2 * budget_of("12gb")})])
    assert not made.fits
    assert "both at once does not fit" in made.lines[-1]


def net(size: int) -> nn.Module:
    """A network of `size` bytes."""
    return nn.Linear(size // 4, 1, bias=False).requires_grad_(False)


def test_those_unused_for_longest_go_when_room_is_needed() -> None:
    a, b, c = net(400), net(400), net(400)
    homes = [one.weight.data_ptr() for one in (a, b, c)]  # pyright: ignore
    residents = Residents(CPU, budget=1000)
    for one in (a, b, a):
        with residents.visit(one):
            assert one in residents.there
    with residents.visit(c):
        assert residents.there == [a, c]
    with residents.visit(scratch=700):
        assert residents.there == []
    assert [one.weight.data_ptr() for one in (a, b, c)] == homes  # pyright: ignore


def test_what_is_needed_together_is_there_together() -> None:
    a, b, c = net(400), net(400), net(400)
    residents = Residents(CPU, budget=1000)
    with residents.visit(a):
        with residents.visit(b, c):
            assert set(residents.there) == {a, b, c}, (
                "more than fits is tried, and the device says what it thinks of it"
            )
        assert a in residents.there


def test_without_a_budget_nothing_is_moved() -> None:
    a = net(400)
    before = a.weight.data_ptr()  # pyright: ignore
    with Residents(CPU).visit(a):
        assert a.weight.data_ptr() == before  # pyright: ignore


@contextmanager
def watched(pipeline: Any) -> Iterator[list[str]]:
    """Names of the networks that ran while they were not on the device."""
    away: list[str] = []

    def check(name: str, whole: nn.Module) -> Any:
        return lambda *_: None if whole in pipeline.residents.there else away.append(name)

    nets = {name: one for name, one in pipeline.components.items() if isinstance(one, nn.Module)}
    nets |= {name: pipeline.controlnets[name] for name in getattr(nets.pop("controlnets", None), "names", ())}
    hooks = [inner.register_forward_pre_hook(check(name, one)) for name, one in nets.items() for inner in one.modules()]
    try:
        yield away
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("cls", "folder", "request_"),
    [
        (InstantIDPipeline, "instantid", InstantIDRequest("a man", seed=1, size=(64, 64), num_inference_steps=2)),
        (PuLIDPipeline, "pulid", PuLIDRequest("portrait", seed=1, width=64, height=64, num_inference_steps=2)),
    ],
    ids=["instantid", "pulid"],
)
def test_networks_run_only_where_they_visit_and_the_picture_is_the_same(cls: Any, folder: str, request_: Any) -> None:
    torch.set_num_threads(1)
    profile = Profile(device="cpu", dtype="float32", memory="12gb")
    pipeline = cls.load(ROOT / "weights/tiny" / folder, profile, Shelf(), faces=full_depth.OneFace())

    def draw() -> torch.Tensor:
        prepared = pipeline.prepare(request_, [full_depth.PHOTO])
        return pipeline.generate([prepared], lambda step, total: False, "raw")[0][0].latents

    with watched(pipeline) as away:
        roomy = draw()
        pipeline.residents.clear()
        pipeline.residents.budget = max(map(size_of, (pipeline.unet, pipeline.vae, pipeline.text_encoder))) + 1
        tight = draw()
    assert away == []
    assert torch.equal(roomy, tight)
    assert pipeline.unet not in pipeline.residents.there
    with watched(pipeline) as away:
        pipeline.vae.decode(torch.zeros(1, 4, 8, 8))
        pipeline.text_encoder(torch.zeros(1, 3, dtype=torch.int64))
    assert "text_encoder" in away, "the watch notices what it is there for"


@pytest.mark.parametrize(("cls", "folder"), [(InstantIDPipeline, "instantid"), (PuLIDPipeline, "pulid")])
def test_what_is_remembered_brings_no_network_to_the_device(cls: Any, folder: str) -> None:
    torch.set_num_threads(1)
    profile = Profile(device="cpu", dtype="float32", memory="12gb", identity_cache_mb=50)
    pipeline = cls.load(ROOT / "weights/tiny" / folder, profile, Shelf(), faces=full_depth.OneFace())
    size: Any = {"size": (64, 64)} if folder == "instantid" else {"width": 64, "height": 64}
    kind: Any = InstantIDRequest if folder == "instantid" else PuLIDRequest
    encoders = {pipeline.text_encoder, pipeline.text_encoder_2}
    encoders |= {pipeline.resampler} if folder == "instantid" else {pipeline.eva, pipeline.id_encoder}
    came = []
    for seed in range(2):
        pipeline.residents.clear()
        request = kind("a man", seed=seed, num_inference_steps=1, **size)
        pipeline.generate([pipeline.prepare(request, [full_depth.PHOTO])], lambda step, total: False)
        came.append(encoders & set(pipeline.residents.there))
    assert came == [encoders, set()]


def test_one_worker_s_pipelines_share_the_room() -> None:
    shelf, profile = Shelf(), Profile(device="cpu", dtype="float32", memory="24gb")
    instantid = InstantIDPipeline.load(ROOT / "weights/tiny/instantid", profile, shelf, faces=full_depth.OneFace())
    pulid = PuLIDPipeline.load(ROOT / "weights/tiny/pulid", profile, shelf, faces=full_depth.OneFace())
    assert instantid.residents is pulid.residents
    assert instantid.residents.budget == budget_of("24gb")


@pytest.mark.parametrize(
    ("device", "memory", "graphs"), [("cuda", "auto", True), ("cuda", "24gb", False), ("cpu", "auto", False)]
)
def test_a_worker_records_steps_where_networks_stay_on_a_gpu(device: str, memory: Any, graphs: bool) -> None:
    profile = profile_of(Settings(device=device, memory_profile=memory, identity_cache_mb=0, graphs=True))
    assert (profile.graphs, profile.memory, profile.identity_cache_mb) == (graphs, memory, 0)
    assert not profile_of(Settings(device=device, memory_profile=memory)).graphs
    assert resolved(Profile(device="cpu", memory="auto")).memory == "48gb"
