"""Latents to pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from pipelines.endpoint import Picture
from pipelines.errors import BadPicture


@dataclass(frozen=True)
class Raw:
    """One picture before rounding: latents (4, H/8, W/8) and the VAE's output (3, H, W), about -1..1, both float32."""

    latents: Tensor
    image: Tensor


def decode(vae: AutoencoderKL, latents: Tensor) -> list[Tensor]:
    """Latents (B, 4, h, w) -> B images (3, 8h, 8w), float32, about -1..1.

    One at a time, because a batch multiplies the VAE's peak memory (performance.md §1.3).
    """
    scaled = (latents / vae.config["scaling_factor"]).to(vae.dtype)
    return [vae.decode(one[None], return_dict=False)[0][0].float() for one in scaled]


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in -1..1 -> (H, W, 3) uint8, rounded on the device. Raises BadPicture for NaN or a black picture."""
    if not torch.isfinite(image).all():
        raise BadPicture("the network's output is not finite; in float16 use a VAE made for it, or bfloat16")
    pixels = image.div(2).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    if not pixels.any():
        raise BadPicture("the picture is black throughout")
    return pixels.permute(1, 2, 0).contiguous().cpu().numpy()


def deliver(latents: Tensor, images: list[Tensor], seeds: list[int], output_type: Literal["uint8", "raw"]) -> list[Any]:
    """One Picture, or Raw, per image."""
    if output_type == "raw":
        return [Raw(*pair) for pair in zip(latents, images, strict=True)]
    return [Picture(to_pixels(image), seed) for image, seed in zip(images, seeds, strict=True)]


def deal(pictures: list[Any], counts: Sequence[int]) -> list[list[Any]]:
    """A batch's pictures, dealt out to its requests in order."""
    rest = iter(pictures)
    return [list(islice(rest, count)) for count in counts]
