"""PuLID's denoising step with everything that is constant over a request."""

from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from pipelines.sdxl.attention import Context
from pipelines.sdxl.denoise import guide
from pipelines.sdxl.samplers import dpm_step


@dataclass(frozen=True)
class PuLIDStep:
    """One DPM-Solver++ step: UNet, guidance, sampler. A `Body` of pipelines/sdxl/graph.py.

    Args:
        context: what the UNet attends to.
        added: pooled text and time ids.
        guidance: (B, 1, 1, 1) float32; None without guidance.
        dtype: the UNet's.
    """

    unet: UNet2DConditionModel
    context: Context
    added: dict[str, Tensor]
    guidance: Tensor | None
    dtype: torch.dtype

    def __call__(
        self, timestep: Tensor, coefficients: Tensor, latents: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Latents (B, 4, h, w) float32 and the last step's x0 -> the next latents and this step's x0.

        Args:
            timestep: () int64. coefficients: a row of DPMTable's, (5,).
        """
        x = latents.to(self.dtype)
        noise = self.unet(
            x if self.guidance is None else torch.cat([x, x]),
            timestep,
            encoder_hidden_states=self.context,  # pyright: ignore[reportArgumentType]
            added_cond_kwargs=self.added,
            return_dict=False,
        )[0]
        return dpm_step(coefficients, latents, guide(noise, self.guidance), previous)
