"""What a denoising step is given, as plain tensors: the same for our step and for the yardsticks beside it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.instantid.identity_net import face_masks
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.instantid.prepared import InstantIDPrepared
from pipelines.pulid.identity import encode_photos, merge_photos
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.pulid.prepared import PuLIDPrepared, stack_halves
from pipelines.sdxl.attention import IdentityLayers
from pipelines.sdxl.denoise import time_ids
from pipelines.sdxl.text import Prompt


@dataclass(frozen=True)
class Inputs:
    """One guided request. Rows are (unconditional, conditional).

    Args:
        text: (2, N, width). added: SDXL's pooled text (2, width) and time ids (2, 6).
        tokens: the identity's (2, T, width). strength: its scale.
        guidance: of classifier-free guidance, above 1.
    """

    text: Tensor
    added: dict[str, Tensor]
    tokens: Tensor
    strength: float
    guidance: float
    steps: int


@dataclass(frozen=True)
class InstantIDInputs(Inputs):
    """With what IdentityNet and the other ControlNets get.

    Args:
        images: per net (2, 3, H, W) in 0..1, IdentityNet's first; scales: one each.
        mask: (H, W) float32, 1 inside the face's box; None when the identity acts everywhere.
    """

    images: tuple[Tensor, ...]
    scales: tuple[float, ...]
    mask: Tensor | None


def instantid_inputs(pipeline: InstantIDPipeline, prepared: InstantIDPrepared) -> InstantIDInputs:
    """What the pipeline would give its own step."""
    request, person, device = prepared.request, prepared.person, pipeline.unet.device
    prompt, face = pipeline.encode_prompt([prepared]), pipeline.encode_face([prepared])
    assert person is not None and face is not None and prepared.guided
    pictures = [person.kps_image, *(control.image for control in prepared.controls)]
    return InstantIDInputs(
        text=prompt.tokens,
        added=added_conditions(prompt, prepared.size),
        tokens=face.to(prompt.tokens.dtype),
        strength=request.ip_adapter_scale,
        guidance=request.guidance_scale,
        steps=request.num_inference_steps,
        images=tuple(pixels(picture, device, pipeline.unet.dtype) for picture in pictures),
        scales=(request.identity_controlnet_conditioning_scale, *(control.scale for control in prepared.controls)),
        mask=face_masks([person.box], prepared.size)[0, 0].to(device) if person.box else None,
    )


def pulid_inputs(pipeline: PuLIDPipeline, prepared: PuLIDPrepared) -> Inputs:
    """What the pipeline would give its own step; the identity's tokens are float32, as upstream has them."""
    request = prepared.request
    prompt = pipeline.encode_prompt([prepared])
    nets = (pipeline.face_parser, pipeline.eva, pipeline.id_encoder)
    photos = encode_photos(nets, prepared.crops, prepared.embeddings)
    nobody = pipeline.unconditional_identity.expand(len(photos), -1, -1)
    halves = ([merge_photos(nobody, request.id_mix)], [merge_photos(photos, request.id_mix)])
    return Inputs(
        text=prompt.tokens,
        added=added_conditions(prompt, (request.width, request.height)),
        tokens=stack_halves([prepared], *halves),
        strength=request.id_scale,
        guidance=request.guidance_scale,
        steps=request.num_inference_steps,
    )


def added_conditions(prompt: Prompt, size: tuple[int, int]) -> dict[str, Tensor]:
    """SDXL's pooled text and picture size."""
    return {"text_embeds": prompt.pooled, "time_ids": time_ids(*size, len(prompt.pooled), prompt.pooled)}


def pixels(picture: np.ndarray[Any, Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(H, W, 3) uint8 -> (2, 3, H, W) in 0..1, once for each half."""
    one = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].to(dtype) / 255
    return torch.cat([one, one])


def identity_weights(layers: IdentityLayers) -> list[list[nn.Parameter]]:
    """Per cross attention the weights of its projections to key and value."""
    return [[child.get_submodule(name).weight for name in child.names] for child in layers.children()]  # pyright: ignore
