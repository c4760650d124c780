"""A step reads nothing on the host and keeps its shapes: it runs on torch's meta device, which has nothing to read.

On a GPU every such read would stall the loop, and none can be part of a CUDA graph.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.sdxl.graph import Runner
from pipelines.sdxl.tree import tensors, with_tensors
from scripts import full_depth


class Keeping(Runner):
    """A Runner that keeps the last body and its inputs of every step."""

    def bind(self, body: Any) -> Any:
        self.body, self.inputs = body, []

        def run(*inputs: Tensor) -> Any:
            self.inputs.append(inputs)
            return body(*inputs)

        return run


def to_meta(thing: Any) -> Any:
    return with_tensors(thing, lambda tensor: tensor.to("meta"))


@pytest.fixture(scope="module", params=["instantid", "pulid", "pulid extreme style"])
def kept(request: pytest.FixtureRequest) -> tuple[Any, list[Any]]:
    """A body whose networks and constants are on the meta device, and the inputs of three steps, likewise."""
    torch.set_num_threads(1)
    name, _, mode = request.param.partition(" ")
    pipeline = getattr(full_depth, name)()
    pipeline.runner = keeping = Keeping()
    with torch.no_grad():
        step, latents = getattr(full_depth, f"{name}_step")(pipeline, **({"mode": mode} if mode else {}))
        for i in range(3):
            latents = step(latents, i)
    for net in pipeline.components.values():
        if isinstance(net, nn.Module):
            nn.Module.to(net, "meta")
    return to_meta(keeping.body), [to_meta(inputs) for inputs in keeping.inputs]


def test_a_step_reads_nothing_on_the_host(kept: tuple[Any, list[Any]]) -> None:
    body, (inputs, *_) = kept
    with torch.no_grad():
        outputs = body(*inputs)
    assert {output.device.type for output in outputs} == {"meta"}
    assert len(list(tensors(body))) > 280, "keys and values of 70 layers for text and identity"


def test_all_steps_have_the_same_shapes(kept: tuple[Any, list[Any]]) -> None:
    body, steps = kept
    shapes = [[(one.shape, one.dtype, one.stride()) for one in inputs] for inputs in steps]
    assert shapes[0] == shapes[1] == shapes[2]
    with torch.no_grad():
        outputs = body(*steps[0])
    assert outputs[0].shape == steps[0][-1].shape


READS = {
    "item": lambda x: x * x.sum().item(),
    "nonzero": lambda x: x[x.nonzero()],
    "to the host": lambda x: x.cpu(),
    "a decision": lambda x: x if x.any() else -x,
}


@pytest.mark.parametrize("kept", ["pulid"], indirect=True)
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reading_would_be_noticed(kept: tuple[Any, list[Any]], read: Any) -> None:
    body, (inputs, *_) = kept

    class Reading(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return (read(body.unet(*args, **kwargs)[0]),)

    with torch.no_grad(), pytest.raises((RuntimeError, NotImplementedError)):
        replace(body, unet=Reading())(*inputs)
