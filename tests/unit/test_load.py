"""How a network gets its tensors: on its device, one by one."""

from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from pipelines.checkpoint import read_tensors
from pipelines.instantid.lora import read_lora
from pipelines.profile import Profile
from pipelines.sdxl.load import empty_net, fill

TINY = Path(__file__).parents[2] / "weights" / "tiny"
BASE = TINY / "instantid" / "base"


def test_a_network_goes_to_its_device_tensor_by_tensor_and_is_changed_there() -> None:
    """A card may have no room for a file of several networks, or in float32, beside what lives there already."""
    profile = Profile(device="meta", dtype="float16")
    net = empty_net(UNet2DConditionModel, BASE / "unet")
    file = BASE / "unet" / "diffusion_pytorch_model.safetensors"
    changed: list[str] = []

    def change(_: str, tensor: torch.Tensor) -> torch.Tensor:
        changed.append(tensor.device.type)
        return tensor

    fill(net, read_tensors(file), file, profile, change)
    assert changed == ["meta"] * len(net.state_dict())
    assert {tensor.device.type for tensor in net.parameters()} == {"meta"}
    assert {tensor.dtype for tensor in net.parameters()} == {torch.float16}


def test_a_lora_is_added_where_the_weights_are() -> None:
    """It is read to the CPU; the weights are on the card by then."""
    net = empty_net(UNet2DConditionModel, BASE / "unet")
    lora = read_lora(TINY / "instantid" / "pytorch_lora_weights.safetensors", net, "cpu")
    name = next(iter(lora.modules))
    weight = torch.empty(net.get_parameter(name).shape, dtype=torch.float16, device="meta")
    fused = lora.fuse(name, weight)
    assert (fused.device.type, fused.dtype, fused.shape) == ("meta", torch.float32, weight.shape)
