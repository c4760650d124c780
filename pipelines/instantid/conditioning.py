"""What steers a batch beside its latents: contexts and ControlNets, projected and placed once, before the loop.

A batch has one row per request, or with guidance two: first the unconditional half, then the conditional one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from pipelines.instantid.identity_net import (
    ControlBranch,
    ControlNets,
    attention_masks,
    embed_condition,
    face_masks,
    residual_masks,
)
from pipelines.instantid.prepared import InstantIDPrepared
from pipelines.sdxl.attention import PLAIN, Context, Identity, IdentityLayers, fill_up, text_keys_values
from pipelines.sdxl.device import weight_of
from pipelines.sdxl.text import Prompt

TEXT_MULTIPLE = 80
"""Texts are filled up to this many tokens, hidden ones: 77 and a little, so that kernels find their rows aligned."""

Batch = Sequence[InstantIDPrepared]
Network = UNet2DConditionModel | ControlNetModel


def rows(prepared: Batch, x: Tensor) -> Tensor:
    """One row per request -> the batch's rows."""
    return torch.cat([x, x]) if prepared[0].guided else x


def scale_rows(prepared: Batch, scales: Sequence[float], net: Network) -> Tensor:
    """(rows, 1, 1, 1) in the network's dtype."""
    return rows(prepared, weight_of(net).new_tensor(scales).view(-1, 1, 1, 1))


def mask_rows(prepared: Batch, net: Network) -> Tensor | None:
    """(rows, 1, H, W), 1 inside each face's box; None when the identity acts everywhere."""
    boxes = [p.person.box for p in prepared if p.person and p.person.box]
    return rows(prepared, face_masks(boxes, prepared[0].size).to(weight_of(net))) if boxes else None


def face_embeddings(prepared: Batch) -> NDArray[np.float32] | None:
    """(rows, 1, 512), nobody's being zero (§A11); None when no network asks who it is."""
    people = [p.person for p in prepared if p.person and (p.has_adapter or p.has_identity_net)]
    if not people:
        return None
    found = np.stack([person.embedding for person in people])[:, None]
    return np.concatenate([np.zeros_like(found), found]) if prepared[0].guided else found


def levels(net: Network) -> int:
    """How many resolutions a network has."""
    return len(net.config["block_out_channels"])


def unet_context(
    unet: UNet2DConditionModel, layers: IdentityLayers, prepared: Batch, prompt: Prompt, face: Tensor | None
) -> Context:
    """The UNet attends to the text and, with the adapter's scale, inside the face's box, to the face tokens."""
    tokens, mask = fill_up(prompt.tokens.to(weight_of(unet)), TEXT_MULTIPLE)
    text = text_keys_values(unet, tokens)
    if face is None or not prepared[0].has_adapter:
        return Context(text, mask=mask)
    scale = scale_rows(prepared, [p.request.ip_adapter_scale for p in prepared], unet)
    masks = mask_rows(prepared, unet)
    by_length = {} if masks is None else {n: m * scale for n, m in attention_masks(masks, levels(unet)).items()}
    return Context(text, Identity(layers(face, PLAIN), scale, PLAIN, by_length), mask)


def control_branches(
    nets: tuple[ControlNetModel, ControlNets],
    prepared: Batch,
    prompt: Prompt,
    face: Tensor | None,
    added: dict[str, Tensor],
) -> list[ControlBranch]:
    """IdentityNet, attending to the face tokens inside the face's box, then the others, attending to the text."""
    identity_net, controlnets = nets
    branches = []
    if face is not None and prepared[0].has_identity_net:
        scales = [p.request.identity_controlnet_conditioning_scale for p in prepared]
        images = [p.person.kps_image for p in prepared if p.person]
        masks = mask_rows(prepared, identity_net)
        branches.append(control_branch(identity_net, prepared, (face, None), (images, scales), added, masks))
    text = fill_up(prompt.tokens.to(weight_of(identity_net)), TEXT_MULTIPLE)
    for controls in zip(*(p.controls for p in prepared), strict=True):
        pictures = [control.image for control in controls], [control.scale for control in controls]
        branches.append(control_branch(controlnets[controls[0].name], prepared, text, pictures, added))
    return branches


def control_branch(
    net: ControlNetModel,
    prepared: Batch,
    attended: tuple[Tensor, Tensor | None],
    controls: tuple[Sequence[NDArray[np.uint8]], Sequence[float]],
    added: dict[str, Tensor],
    masks: Tensor | None = None,
) -> ControlBranch:
    """One ControlNet with the tokens and mask that it attends to, and per request an image (H, W, 3) and its scale."""
    (tokens, mask), (images, scales), weight = attended, controls, weight_of(net)
    pixels = torch.from_numpy(np.stack(images)).to(weight.device).permute(0, 3, 1, 2).float() / 255
    return ControlBranch(
        net=net,
        context=Context(text_keys_values(net, tokens), mask=mask),
        condition=rows(prepared, embed_condition(net, pixels)),
        scale=scale_rows(prepared, scales, net),
        added=added,
        masks={} if masks is None else residual_masks(masks, levels(net)),
    )
