"""InstantID's denoising step with everything that is constant over a request."""

from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from pipelines.instantid.identity_net import ControlBranch
from pipelines.sdxl.attention import Context
from pipelines.sdxl.branches import Branches
from pipelines.sdxl.denoise import guide
from pipelines.sdxl.samplers import lcm_step


@dataclass(frozen=True)
class InstantIDStep:
    """One LCM step: ControlNets, UNet, guidance, sampler. A `Body` of pipelines/sdxl/graph.py.

    Args:
        context: what the UNet attends to.
        nets: IdentityNet and the other ControlNets with what each of them is given.
        together: how the nets and the UNet's encoder are run beside one another.
        added: pooled text and time ids.
        guidance: (B, 1, 1, 1) float32; None without guidance.
        dtype: the UNet's.
    """

    unet: UNet2DConditionModel
    context: Context
    nets: tuple[ControlBranch, ...]
    together: Branches
    added: dict[str, Tensor]
    guidance: Tensor | None
    dtype: torch.dtype

    def __call__(self, timestep: Tensor, coefficients: Tensor, fresh: Tensor, latents: Tensor) -> tuple[Tensor]:
        """Latents (B, 4, h, w) float32 -> the next ones.

        Args:
            timestep: () int64. coefficients: a row of LCMTable's, (3,). fresh: noise like `latents`.
        """
        x = latents.to(self.dtype)
        x = x if self.guidance is None else torch.cat([x, x])
        down, mid = self.together.added([net.residuals for net in self.nets], x, timestep)
        noise = self.unet(
            x,
            timestep,
            encoder_hidden_states=self.context,  # pyright: ignore[reportArgumentType]
            added_cond_kwargs=self.added,
            down_block_additional_residuals=down,  # pyright: ignore[reportArgumentType]
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        return (lcm_step(coefficients, latents, guide(noise, self.guidance), fresh),)
