"""IdentityNet and the other ControlNets: what they add to the UNet (instantid.md §A7, §A13, §A14).

IdentityNet is a stock ControlNet whose context is the face tokens; the others attend to the text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from pipelines.instantid.photo import Box, Size
from pipelines.profile import Profile
from pipelines.sdxl.attention import Context, install_attention
from pipelines.sdxl.device import weight_of
from pipelines.sdxl.load import read_net, settle

LATENT_SCALE = 8
"""Pixels per latent."""


class ControlNets(ModelMixin, ConfigMixin):
    """The ControlNets beside IdentityNet, by the name of their control: one registered component."""

    @register_to_config
    def __init__(self, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = tuple(names)

    @classmethod
    def of(cls, nets: Mapping[str, ControlNetModel]) -> "ControlNets":
        """The collection of these nets."""
        self = cls(list(nets))
        for name, net in nets.items():
            self.add_module(name, net)
        return self

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> ControlNetModel:
        return self.get_submodule(name)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class ControlBranch:
    """One ControlNet for one batch, with everything that is constant over the steps.

    Args:
        context: what it attends to.
        condition: its embedded control images (B, C, H/8, W/8).
        scale: (B, 1, 1, 1).
        added: pooled text and time ids, the same as the UNet's.
        masks: by a residual's (height, width), (B, 1, height, width); empty: everywhere.
    """

    net: ControlNetModel
    context: Context
    condition: Tensor
    scale: Tensor
    added: dict[str, Tensor]
    masks: Mapping[Size, Tensor] = field(default_factory=dict)

    def residuals(self, latents: Tensor, timestep: Tensor) -> list[Tensor]:
        """What this net adds to each of the UNet's skip connections and, last, to its middle."""
        down, mid = self.net(
            latents,
            timestep,
            encoder_hidden_states=self.context,  # pyright: ignore[reportArgumentType]
            controlnet_cond=self.condition,
            conditioning_scale=self.scale,  # pyright: ignore[reportArgumentType]
            added_cond_kwargs=self.added,
            return_dict=False,
        )
        if not self.masks:
            return [*down, mid]
        return [x * self.masks[x.shape[2], x.shape[3]] for x in (*down, mid)]


def load_control_net(folder: Path, profile: Profile) -> ControlNetModel:
    """A ControlNet made ready for the loop, on the profile's device.

    Raises:
        LoadError: naming the folder and what is missing, unexpected or misshapen in it.
    """
    return settle(adapt_control_net(read_net(ControlNetModel, folder, profile)), profile)


def adapt_control_net(net: ControlNetModel) -> ControlNetModel:
    """Our attention, and the condition embedding moved aside so that it runs once per request."""
    install_attention(net)
    net.add_module("condition_embedding", net.controlnet_cond_embedding)
    net.add_module("controlnet_cond_embedding", nn.Identity())
    return net


def embed_condition(net: ControlNetModel, images: Tensor) -> Tensor:
    """Control images (B, 3, H, W) in 0..1 -> (B, C, H/8, W/8), the part of a ControlNet that no step changes."""
    return net.get_submodule("condition_embedding")(images.to(weight_of(net)))


def face_masks(boxes: Sequence[Box], size: Size) -> Tensor:
    """1 inside each box, 0 outside: (B, 1, H, W) float32, on the CPU."""
    masks = torch.zeros(len(boxes), 1, size[1], size[0])
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[:, y1:y2, x1:x2] = 1
    return masks


def strides(levels: int) -> list[int]:
    """Pixels per feature at each of the UNet's resolutions: 8, 16, 32."""
    return [LATENT_SCALE << level for level in range(levels)]


def residual_masks(masks: Tensor, levels: int) -> dict[Size, Tensor]:
    """Masks (B, 1, H, W) -> by resolution (h, w), bilinear without antialiasing (§A7a)."""
    shapes = [masks[0, 0, ::stride, ::stride].shape for stride in strides(levels)]
    return {(h, w): functional.interpolate(masks, size=(h, w), mode="bilinear", align_corners=False) for h, w in shapes}


def attention_masks(masks: Tensor, levels: int) -> dict[int, Tensor]:
    """Masks (B, 1, H, W) -> by number of queries, (B, 1, queries, 1): each feature's top left pixel (§A7b)."""
    sampled = [masks[:, :, ::stride, ::stride].flatten(2)[..., None] for stride in strides(levels)]
    return {mask.shape[2]: mask for mask in sampled}
