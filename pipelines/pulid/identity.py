"""Photos to identity tokens: background out, grey in, EVA02-CLIP and ArcFace into the IDEncoder (pulid.md §A5–A8)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipelines.pulid.nets.bisenet import BiSeNet
from pipelines.pulid.nets.eva import MEAN, STD, EVAVisionTower
from pipelines.pulid.nets.id_encoder import IDEncoder
from pipelines.sdxl.device import weight_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

LUMA = (0.299, 0.587, 0.114)
"""Rec. 601 weights of R, G, B."""

HIDDEN_LABELS = (0, 7, 8, 9, 14, 15, 16, 18)
"""Background, ears, earring, neck, necklace, cloth, hat: painted white. Hair stays."""

BODY_TOKENS = 5
"""The embeddings' tokens come first; without mixing, a further photo gives only these."""


def per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """(3, 1, 1) constants beside an image."""
    return like.new_tensor(values).view(3, 1, 1)


def face_only(parser: BiSeNet, crops: Tensor) -> Tensor:
    """Crops (B, 3, 512, 512) RGB in 0..1 -> the same faces in grey on white."""
    normal = (crops - per_channel(IMAGENET_MEAN, crops)) / per_channel(IMAGENET_STD, crops)
    labels = parser(normal)
    hidden = torch.isin(labels, labels.new_tensor(HIDDEN_LABELS))
    grey = (crops * per_channel(LUMA, crops)).sum(1)
    return torch.where(hidden, 1.0, grey)[:, None].expand(-1, 3, -1, -1)


def clip_input(faces: Tensor, size: int) -> Tensor:
    """Resize to the tower's input and normalise: bicubic without antialiasing, no clamp (pulid.md §0.4)."""
    faces = functional.interpolate(faces, size=(size, size), mode="bicubic", align_corners=False, antialias=False)
    return (faces - per_channel(MEAN, faces)) / per_channel(STD, faces)


def encode_photos(
    nets: tuple[BiSeNet, EVAVisionTower, IDEncoder],
    crops: Sequence[NDArray[np.uint8]],
    embeddings: Sequence[NDArray[np.float32]],
) -> Tensor:
    """A batch's photos at once: aligned RGB crops (512, 512, 3) and raw ArcFace (512,) -> tokens (P, 10, width)."""
    parser, tower, encoder = nets
    pixels = torch.from_numpy(np.stack(crops)).to(weight_of(tower).device)
    faces = face_only(parser, pixels.permute(0, 3, 1, 2).float() / 255)
    embedding, hidden = tower(clip_input(faces, tower.image_size))
    arcface = torch.from_numpy(np.stack(embeddings)).to(embedding)
    return encoder(torch.cat([arcface, functional.normalize(embedding)], -1), hidden)


def merge_photos(tokens: Tensor, mix: bool) -> Tensor:
    """Tokens (P, 10, width) of one person -> (N, width): the first photo whole, the others whole only when mixed."""
    rest = tokens[1:] if mix else tokens[1:, :BODY_TOKENS]
    return torch.cat([tokens[0], rest.flatten(0, 1)])
