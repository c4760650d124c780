"""The denoising loop and what feeds it: seeds, noise, classifier-free guidance, time ids."""

import secrets
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipelines.endpoint import OnStep
from pipelines.errors import Cancelled

Step = Callable[[Tensor, int], Tensor]
"""``step(latents, i)``: the i-th denoising step of a request; latents are float32, on the denoising device."""


def resolve_seed(seed: int | None) -> int:
    """The given seed, or a random one below 2**32, which every JSON client can read without rounding."""
    return secrets.randbelow(2**32) if seed is None else seed


def draw_noise(shape: Sequence[int], generator: torch.Generator, draws: int) -> Tensor:
    """Standard normal noise (draws, *shape), float32 on the CPU, one draw after another.

    Drawn on the CPU so that a seed means the same picture on every device; sequential so that the first picture does
    not depend on how many are asked for (pulid.md §A9).
    """
    return torch.stack([torch.randn(1, *shape, generator=generator)[0] for _ in range(draws)])


def time_ids(width: int, height: int, batch: int, like: Tensor) -> Tensor:
    """SDXL's size conditioning (batch, 6): original size, crop (0, 0), target size, rows first (arXiv:2307.01952)."""
    ids = torch.tensor([height, width, 0, 0, height, width], dtype=like.dtype, device=like.device)
    return ids.repeat(batch, 1)


def guide(noise: Tensor, scale: Tensor | None) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598): halves (unconditional, conditional) -> one; None means no guidance.

    Args:
        noise: (2B, C, H, W) with guidance, else (B, C, H, W).
        scale: (B, 1, 1, 1) float32.
    """
    if scale is None:
        return noise.float()
    unconditional, conditional = noise.float().chunk(2)
    return torch.addcmul(unconditional, conditional - unconditional, scale)


def denoise(step: Step, latents: Tensor, total: int, on_step: OnStep) -> Tensor:
    """Run `total` steps, asking after each whether to stop. Raises Cancelled within one step of being told so."""
    for i in range(total):
        latents = step(latents, i)
        if on_step(i + 1, total):
            raise Cancelled(f"stopped after step {i + 1} of {total}")
    return latents
