"""How near everything in a photo is, by Depth Anything V2 through transformers (arXiv:2406.09414; instantid.md §A6)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch.nn.functional import interpolate
from transformers import DepthAnythingForDepthEstimation, DPTImageProcessorPil

from pipelines.checkpoint import require
from pipelines.errors import BadPicture
from pipelines.profile import Profile
from pipelines.sdxl.load import place, read_net, resolve_device

FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


class DepthEstimator:
    """Draws depth images. Safe to call from several threads."""

    def __init__(self, folder: Path, profile: Profile) -> None:
        """Read FILES of `folder`; in float32, because depth decides edges. Raises LoadError naming a file."""
        net = read_net(DepthAnythingForDepthEstimation, folder, replace(profile, dtype="float32"))
        require(folder / "preprocessor_config.json")
        self._net = place(net, resolve_device(profile))
        # the Pil one by name: transformers' default needs torchvision, and results must not depend on it
        self._processor = DPTImageProcessorPil.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def __call__(self, photo: Image) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 of the photo's size: near is bright.

        Raises:
            BadPicture: the network's answer is not a number.
        """
        pixels = self._processor(images=photo, return_tensors="pt")["pixel_values"].to(self._net.device)
        depth = self._net(pixels).predicted_depth[:, None]  # (1, 1, h, w), larger is nearer
        size = photo.height, photo.width
        return as_grey(interpolate(depth, size, mode="bicubic", align_corners=False)[0, 0].cpu().numpy())


def as_grey(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Stretch (H, W) to 0..255 in three channels; a constant depth, which upstream divides by 0, becomes black.

    Raises:
        BadPicture: some of it is not a number.
    """
    low, high = depth.min(), depth.max()
    if not np.isfinite(high - low):
        raise BadPicture("the depth estimator's answer is not a number")
    stretched = (depth - low) / (high - low) * 255 if high > low else np.zeros_like(depth)
    return np.repeat(stretched[:, :, None], 3, axis=2).astype(np.uint8)
