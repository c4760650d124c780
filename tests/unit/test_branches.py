"""What ControlNets add is waited for only when the UNet's encoder is done: diffusers walks through it no earlier."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.instantid.endpoint import InstantIDRequest
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.sdxl.branches import Added, Net, OneByOne, add_up, branches_of
from scripts import full_depth

ROOT = Path(__file__).parents[2]


@dataclass(eq=False)
class Late:
    """Branches whose sum is not made before the UNet walks through it."""

    order: list[str] = field(default_factory=list)

    def added(self, nets: Sequence[Net], latents: Tensor, timestep: Tensor) -> Added:
        columns = [net(latents, timestep) for net in nets]

        class Walked:
            def __iter__(walked) -> Iterator[Tensor]:
                self.order.append("joined")
                return iter(add_up(columns)[:-1])

        return Walked(), add_up(columns)[-1]


def test_the_unet_joins_its_branches_between_encoder_and_middle() -> None:
    torch.set_num_threads(1)
    profile = Profile(device="cpu", dtype="float32")
    pipeline: Any = InstantIDPipeline.load(ROOT / "weights/tiny/instantid", profile, faces=full_depth.OneFace())
    request = InstantIDRequest("a man", seed=1, size=(64, 64), num_inference_steps=1)

    def draw() -> Tensor:
        prepared = pipeline.prepare(request, [full_depth.PHOTO])
        return pipeline.generate([prepared], lambda step, total: False, "raw")[0][0].latents

    expected = draw()
    pipeline.branches = late = Late()
    for number, block in enumerate(pipeline.unet.down_blocks):
        block.register_forward_hook(lambda *_, number=number: late.order.append(f"down {number}"))
    pipeline.unet.mid_block.register_forward_pre_hook(lambda *_: late.order.append("middle"))
    assert torch.equal(draw(), expected)
    *downs, joined, middle = late.order
    assert downs == [f"down {number}" for number in range(len(pipeline.unet.down_blocks))]
    assert (joined, middle) == ("joined", "middle")


def test_without_nets_nothing_is_added() -> None:
    assert OneByOne().added([], torch.zeros(1), torch.zeros(())) == (None, None)


def test_columns_are_added_up_one_by_one() -> None:
    total = add_up([[torch.tensor(1.0), torch.tensor(2.0)], [torch.tensor(10.0), torch.tensor(20.0)]])
    assert [one.item() for one in total] == [11, 22]


def test_on_the_cpu_branches_run_one_after_another() -> None:
    assert isinstance(branches_of(True, torch.device("cpu")), OneByOne)
