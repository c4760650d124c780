"""LCM's LoRA (arXiv:2311.05556) in kohya's names: checked against a base's UNet and added to its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Size, Tensor, nn

from pipelines.checkpoint import check_fit, keep, read_tensors, require_prepared
from pipelines.errors import LoadError
from pipelines.profile import Profile
from pipelines.sdxl.load import dtype_of, empty_net, fill, load_unet, read_device, read_part

FILE = "pytorch_lora_weights.safetensors"
FUSED = "lcm_unet.safetensors"
"""The default base's UNet with the LoRA in it, as `pipelines.prepare` writes it."""

LoRAUse = Literal["fused", "unfused", "none"]

PREFIX = "lora_unet_"
DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


@dataclass(frozen=True)
class LoRA:
    """W + alpha / rank * up @ down, for some of a UNet's weights.

    Args:
        tensors: of the file, by its names; alpha is scalar, down (rank, in, ...), up (out, rank, ...).
        modules: the file's name of a layer by the UNet's name of its weight.
    """

    tensors: Mapping[str, Tensor]
    modules: Mapping[str, str]

    def fuse(self, name: str, weight: Tensor) -> Tensor:
        """The weight with the LoRA in it, in float32, computed where the weight is; other weights as they are."""
        if name not in self.modules:
            return weight
        down, up, alpha = (
            self.tensors[f"{self.modules[name]}.{part}"].to(weight.device).float() for part in (DOWN, UP, ALPHA)
        )
        change = up.flatten(1) @ down.flatten(1) * (alpha / len(down))
        return weight.float() + change.view(weight.shape)


def read_lora(file: Path, unet: nn.Module, device: str) -> LoRA:
    """The LoRA in `file`, which has a place in `unet` for each of its layers.

    Raises:
        LoadError: naming the file, and the names and shapes in it that do not fit.
    """
    tensors = read_tensors(file, device)
    weights = {
        PREFIX + name.replace(".", "_"): (f"{name}.weight", module.weight.shape)
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    layers = {key.partition(".")[0] for key in tensors} & weights.keys()
    if not layers:
        raise LoadError(f"{file} holds no LoRA for this UNet: none of its names begins like {PREFIX}down_blocks_1")
    expected = {
        f"{layer}.{part}": shape
        for layer in sorted(layers)
        for part, shape in _factors(weights[layer][1], tensors.get(f"{layer}.{DOWN}")).items()
    }
    check_fit(expected, {key: tensor.shape for key, tensor in tensors.items()}, file, "the UNet")
    return LoRA(tensors, {weights[layer][0]: layer for layer in layers})


def load_lcm_unet(folder: Path, base: Path, profile: Profile, lora: LoRAUse) -> UNet2DConditionModel:
    """A base's UNet with LCM's LoRA, fused in float32 before the cast, so that no step pays for it.

    Every base is the default one's network with other numbers: ControlNets and adapter were made for its shapes.

    Args:
        folder: InstantID's, with the LoRA and the default base. base: whose numbers are read.
    """
    if profile.prepared and lora == "fused" and base == folder / "base":
        return load_unet(base, profile, require_prepared(folder / FUSED))
    file = folder / FILE
    unet = empty_net(UNet2DConditionModel, folder / "base" / "unet")
    change = keep if lora == "none" else read_lora(file, unet, read_device(profile)).fuse
    state, source = read_part(unet, base, "unet", profile)
    if lora != "unfused" or profile.device == "meta":
        return fill(unet, state, source, profile, change)
    fill(unet, state, source, replace(profile, dtype="float32"))
    add_lora(unet, file)
    nn.Module.to(unet, dtype_of(profile))  # diffusers' own `to` warns about an empty list
    return unet


def add_lora(unet: UNet2DConditionModel, file: Path) -> None:
    """Put a LoRA beside the UNet's layers, as upstream's demo does; it has a place for each (`read_lora`)."""
    loader: Any = StableDiffusionXLLoraLoaderMixin
    state, alphas = loader.lora_state_dict(str(file), unet_config=unet.config, local_files_only=True)
    loader.load_lora_into_unet(state, alphas, unet)


def _factors(weight: Size, down: Tensor | None) -> dict[str, Size]:
    """Shapes of a layer's three tensors; the file chooses the rank."""
    rank = 1 if down is None or down.ndim == 0 else len(down)
    ones = [1] * (len(weight) - 2)
    return {ALPHA: Size([]), DOWN: Size([rank, *weight[1:]]), UP: Size([weight[0], rank, *ones])}
