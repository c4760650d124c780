"""Latents to pictures."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.endpoint import Picture
from pipelines.errors import BadPicture
from pipelines.faces.similarity import Likeness
from pipelines.sdxl.device import weight_of
from pipelines.sdxl.graph import Body, Runner


@dataclass(frozen=True)
class Raw:
    """One picture before rounding: latents (4, H/8, W/8) and the VAE's output (3, H, W), about -1..1, both float32."""

    latents: Tensor
    image: Tensor


@dataclass(frozen=True)
class Decoder:
    """The VAE's decoding of one picture, as a body that a Runner can record and compile."""

    vae: AutoencoderKL

    def __call__(self, latent: Tensor) -> tuple[Tensor]:
        """(1, 4, h, w) in the VAE's dtype -> (1, 3, 8h, 8w)."""
        scaled: Any = latent  # diffusers asks for a FloatTensor in any dtype
        return (self.vae.decode(scaled, return_dict=False)[0],)


def decode(vae: AutoencoderKL, latents: Tensor, runner: Runner | None = None) -> list[Tensor]:
    """Latents (B, 4, h, w) float32 -> B images (3, 8h, 8w), float32, about -1..1.

    One at a time, because a batch multiplies the VAE's peak memory (performance.md §1.3).

    Args:
        runner: how it is run; None: as it is.
    """
    run = (runner or Runner()).bind(Decoder(vae))
    return [decode_one(vae, one, run) for one in latents / vae.config["scaling_factor"]]


def decode_one(vae: AutoencoderKL, latents: Tensor, run: Body) -> Tensor:
    """One picture's scaled latents (4, h, w) -> (3, 8h, 8w); what overflows in half precision is decoded in float32.

    The second decoding uses a copy, so that the shared VAE stays as it is.
    """
    latent: Any = latents[None]
    image = run(latent.to(weight_of(vae).dtype))[0][0].float()
    if weight_of(vae).dtype == torch.float32 or torch.isfinite(image).all():
        return image
    whole = copy.deepcopy(vae)
    nn.Module.to(whole, torch.float32)
    return whole.decode(latent, return_dict=False)[0][0]


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in -1..1 -> (H, W, 3) uint8, rounded on the device. Raises BadPicture for NaN or a black picture."""
    if not torch.isfinite(image).all():
        raise BadPicture("the network's output is not finite; if the server runs in float16, try bfloat16")
    pixels = image.div(2).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    if not pixels.any():
        raise BadPicture("the picture is black throughout")
    return pixels.permute(1, 2, 0).contiguous().cpu().numpy()


def deliver(
    latents: Tensor,
    images: Sequence[Tensor],
    seeds: Sequence[int],
    people: Sequence[Likeness | None],
    output_type: Literal["uint8", "raw"],
) -> list[Any]:
    """One Picture, or Raw, per image; whom it is to show, if anybody, tells what can be measured of it."""
    if output_type == "raw":
        return [Raw(*pair) for pair in zip(latents, images, strict=True)]
    return [picture_of(*one) for one in zip(images, seeds, people, strict=True)]


def picture_of(image: Tensor, seed: int, person: Likeness | None) -> Picture:
    """The Picture of one decoded image. Raises BadPicture."""
    pixels = to_pixels(image)
    return Picture(pixels, seed, person.metrics(pixels) if person else {})


def deal(pictures: list[Any], counts: Sequence[int]) -> list[list[Any]]:
    """A batch's pictures, dealt out to its requests in order."""
    rest = iter(pictures)
    return [list(islice(rest, count)) for count in counts]
