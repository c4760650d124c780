"""What only a GPU can show: no waiting inside the loop, graphs that replay exactly, a card that is full."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipelines.errors import OutOfMemory
from pipelines.profile import Profile
from pipelines.sdxl.graph import Runner, runner_of
from scripts.gpu.checks import golden_checks
from scripts.gpu.columns import never
from scripts.gpu.models import MODELS, PIPELINES, prepared
from scripts.gpu.networks import Kit

pytestmark = pytest.mark.gpu

KIT = Kit("tiny", "cuda", torch.float16)


@pytest.fixture(params=MODELS)
def pipeline(request: pytest.FixtureRequest) -> Any:
    return PIPELINES[request.param](KIT)


@pytest.fixture
def full_card() -> Iterator[None]:
    """Hardly any memory for this process."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 32e6) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_recorded_pictures_come_out_of_the_gpu_too() -> None:
    assert [check for check in golden_checks("cuda") if not check.ok] == []


def test_no_step_waits_for_the_device(pipeline: Any) -> None:
    """torch raises at the first synchronisation inside the loop."""

    def on_step(step: int, total: int) -> bool:
        torch.cuda.set_sync_debug_mode("error" if step < total else "default")
        return False

    request = prepared(pipeline, KIT)
    pipeline.generate([request], never)
    try:
        pipeline.generate([request], on_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_replayed_graph_gives_the_same_bits(pipeline: Any) -> None:
    """Two people's requests take turns in the same buffers, and a third one is cancelled in the middle."""
    requests = [prepared(pipeline, KIT, seed=seed) for seed in (1, 2)]
    pipeline.runner = Runner()
    eager = [pipeline.generate([one], never, "raw")[0][0].latents for one in requests]
    pipeline.runner = runner_of(Profile(graphs=True), pipeline.unet.device)
    for _ in range(3):
        for one, expected in zip(requests, eager, strict=True):
            assert torch.equal(pipeline.generate([one], never, "raw")[0][0].latents, expected)
    assert pipeline.runner.recorded == 1
    assert pipeline.runner.failures == []


@pytest.mark.usefixtures("full_card")
def test_a_full_card_is_told_and_the_next_small_request_is_served(pipeline: Any) -> None:
    with pytest.raises(OutOfMemory):
        pipeline.generate([prepared(pipeline, KIT, size=(2048, 2048))], never)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert pipeline.generate([prepared(pipeline, KIT)], never)[0][0].image.any()
