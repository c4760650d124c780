"""InstantID's denoising step as upstream's demo runs it, written from its description: the other yardstick.

LCM's LoRA stays beside the weights in peft's layers (instantid.md §A9); every cross attention keeps a map of the face
tokens that nobody reads, masks its answer in each call and resizes the mask each time (§A7, §E4); the residuals are
masked and added in lists (§A7a). PuLID's upstream step is `usual_steps.pulid` with weights in float32.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional

from pipelines.instantid.lora import ALPHA, DOWN, PREFIX, UP, LoRA
from pipelines.sdxl.denoise import Step
from scripts.step_inputs import InstantIDInputs
from scripts.usual_steps import Weights, guided, projection, set_processors
from weights.store import read_shapes

LORA_SHAPES = "lcm_lora_sdxl"
RANK_PER_ALPHA = 8
"""LCM's alpha is 8 at rank 64 (instantid.md §A9)."""


def draw_lora(unet: nn.Module, rank: int = 64) -> LoRA:
    """Random numbers for every layer of this UNet that LCM's LoRA changes: 788 of SDXL's, the same ones each time.

    Args:
        rank: a multiple of 8.
    """
    recorded = {key.partition(".")[0] for key in read_shapes(LORA_SHAPES)}
    tensors, modules = {}, {}
    generator = torch.Generator().manual_seed(0)
    for name, module in unet.named_modules():
        if (key := PREFIX + name.replace(".", "_")) not in recorded:
            continue
        weight: Any = module.weight
        ones = [1] * (weight.ndim - 2)
        down = normal((rank, *weight.shape[1:]), weight, generator) / math.sqrt(weight[0].numel())
        up = normal((weight.shape[0], rank, *ones), weight, generator) / math.sqrt(rank)
        parts = {DOWN: down, UP: up, ALPHA: torch.tensor(rank / RANK_PER_ALPHA)}
        tensors |= {f"{key}.{part}": value.to(weight.device) for part, value in parts.items()}
        modules[f"{name}.weight"] = key
    return LoRA(tensors, modules)


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers drawn on the CPU, the same on every device; none beside what has none."""
    return torch.empty(shape, device="meta") if like.is_meta else torch.randn(shape, generator=generator)


def fuse_lora(unet: nn.Module, lora: LoRA) -> None:
    """Add the LoRA to the weights of a UNet as diffusers makes it."""
    for name, parameter in unet.named_parameters():
        parameter.data = lora.fuse(name, parameter.data).to(parameter.dtype)


def add_lora(unet: UNet2DConditionModel, lora: LoRA) -> None:
    """Put the LoRA beside the weights, in peft's layers."""
    names = [name.removesuffix(".weight") for name in lora.modules]
    rank = len(next(value for key, value in lora.tensors.items() if key.endswith(DOWN)))
    pattern = "|".join(map(re.escape, names))
    config = LoraConfig(r=rank, lora_alpha=rank // RANK_PER_ALPHA, target_modules=pattern, init_lora_weights=False)
    unet.add_adapter(config)
    device, dtype = unet.device, unet.dtype  # diffusers searches every module for them, each time
    for name in names:
        layer, key = unet.get_submodule(name), lora.modules[f"{name}.weight"]
        for part, suffix in ((layer.lora_A, DOWN), (layer.lora_B, UP)):
            part["default"].weight.data = lora.tensors[f"{key}.{suffix}"].to(device, dtype)  # pyright: ignore


class FaceAttention(nn.Module):
    """InstantID's cross attention as upstream computes it: the last tokens are the face's."""

    def __init__(self, weights: Sequence[nn.Parameter], inputs: InstantIDInputs) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = (projection(weight) for weight in weights)
        self.tokens, self.scale, self.mask = inputs.tokens.shape[1], inputs.strength, inputs.mask
        self.attn_map: Tensor | None = None

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        rows, heads = hidden_states.shape[0], attn.heads
        end = encoder_hidden_states.shape[1] - self.tokens
        text, face = encoder_hidden_states[:, :end], encoder_hidden_states[:, end:]

        def split(x: Tensor) -> Tensor:
            return x.view(rows, -1, heads, x.shape[-1] // heads).transpose(1, 2)

        def attend(key: Tensor, value: Tensor) -> Tensor:
            out = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.0, is_causal=False)
            return out.transpose(1, 2).reshape(rows, -1, attn.inner_dim).to(query.dtype)

        query = split(attn.to_q(hidden_states))
        joined = attend(split(attn.to_k(text)), split(attn.to_v(text)))
        key, value = split(self.to_k_ip(face)), split(self.to_v_ip(face))
        added = attend(key, value)
        self.attn_map = query @ key.transpose(-2, -1).softmax(dim=-1)  # kept, and never read (§E4)
        joined = joined + self.scale * (added * self.region(added))
        return attn.to_out[1](attn.to_out[0](joined)) / attn.rescale_output_factor

    def region(self, like: Tensor) -> Tensor:
        """The mask at this layer's resolution, nearest, made anew in each call; ones without a mask."""
        if self.mask is None:
            return torch.ones_like(like)
        height, width = self.mask.shape
        ratio = math.sqrt(height * width / like.shape[1])
        small = functional.interpolate(self.mask[None, None], scale_factor=1 / ratio, mode="nearest")
        return small.reshape(1, -1, 1).to(like.dtype)


def instantid(
    unet: UNet2DConditionModel,
    controls: Sequence[ControlNetModel],
    weights: Weights,
    scheduler: Any,
    inputs: InstantIDInputs,
    generator: torch.Generator | None = None,
) -> Step:
    """UNet with its unfused LoRA, IdentityNet attending to the face tokens, the others to the text, LCM."""
    net: Any = unet
    projections = iter(weights)
    set_processors(net, AttnProcessor2_0(), lambda attn: FaceAttention(next(projections), inputs))
    contexts = [inputs.tokens, *[inputs.text] * (len(controls) - 1)]
    masks = [inputs.mask, *[None] * (len(controls) - 1)]

    def residuals(x: Tensor, t: Tensor) -> list[list[Tensor]]:
        found = []
        for control, context, image, scale, mask in zip(
            controls, contexts, inputs.images, inputs.scales, masks, strict=True
        ):
            down, mid = control(
                x, t, context, image, conditioning_scale=scale, added_cond_kwargs=inputs.added, return_dict=False
            )
            found.append([masked(one, mask) for one in (*down, mid)])
        return found

    def predict(x: Tensor, t: Tensor) -> Tensor:
        *down, mid = (torch.stack(column).sum(0) for column in zip(*residuals(x, t), strict=True))
        return net(
            x,
            t,
            encoder_hidden_states=torch.cat([inputs.text, inputs.tokens], 1),
            added_cond_kwargs=inputs.added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]

    return guided(scheduler, inputs, predict, net.dtype, generator)


def masked(residual: Tensor, mask: Tensor | None) -> Tensor:
    """A residual inside the face's box, the mask resized to it in each step."""
    if mask is None:
        return residual
    small = functional.interpolate(mask[None, None], size=residual.shape[2:], mode="bilinear", align_corners=False)
    return residual * small.to(residual.dtype)
