"""Our two pipelines around random networks, and the request that everything is measured on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from pipelines.faces.analysis import Face
from pipelines.instantid.controls import FOLDERS
from pipelines.instantid.endpoint import ControlName, InstantIDRequest
from pipelines.instantid.identity_net import ControlNets, adapt_control_net
from pipelines.instantid.load import IDENTITY_NET, NAMES, split_sections
from pipelines.instantid.load import load_scheduler as lcm_scheduler
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.instantid.resampler import Resampler
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.load import ENCODER, KEY_VALUE
from pipelines.pulid.load import load_scheduler as dpm_scheduler
from pipelines.pulid.nets.bisenet import BiSeNet
from pipelines.pulid.nets.eva import EVAVisionTower
from pipelines.pulid.nets.id_encoder import IDEncoder
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.sdxl.attention import install_attention
from scripts.gpu import networks
from scripts.gpu.networks import Kit
from scripts.upstream_steps import add_lora, draw_lora, fuse_lora
from weights.store import tiny_root

Model = Literal["instantid", "pulid"]
Way = Literal["ours", "upstream", "plain"]
MODELS: tuple[Model, ...] = ("instantid", "pulid")

BASES: dict[Model, str] = {"instantid": "instantid/base", "pulid": "pulid/sdxl_base"}
SIZES: dict[tuple[str, Model], tuple[int, int]] = {
    ("full", "instantid"): (960, 1280),
    ("full", "pulid"): (768, 1024),
    ("tiny", "instantid"): (64, 128),
    ("tiny", "pulid"): (64, 128),
}
"""(width, height) of the pictures: the endpoints' defaults (performance.md §1.2)."""

TINY_STEPS = 3
"""Enough for each kind of step that the samplers have: first, middle, last."""

PROMPT = "a portrait of an astronaut in a garden, soft light, film grain"

RANKS = {"full": 64, "tiny": 8}
"""Of LCM's LoRA."""


@dataclass(frozen=True)
class GivenFace:
    """A face analyser that finds the same face in every photo, as random detectors find nothing."""

    def largest(self, image: Image.Image, retry: bool = True) -> Face:
        width, height = image.size
        points = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.6], [0.58, 0.6]], np.float32)
        box = np.array([0.25 * width, 0.2 * height, 0.75 * width, 0.75 * height], np.float32)
        embedding = np.random.default_rng(0).normal(0, 0.8, 512).astype(np.float32)
        return Face(box, points * np.array(image.size, np.float32), 1.0, embedding)

    def crop(self, image: Image.Image, face: Face) -> NDArray[np.uint8]:
        return np.random.default_rng(1).integers(0, 255, (512, 512, 3), np.uint8)


def photo(size: tuple[int, int]) -> Image.Image:
    """Smooth random colours of this (width, height), more like a photo than noise is."""
    rough = np.random.default_rng(2).integers(0, 255, (24, 16, 3), np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


def instantid(kit: Kit, way: Way = "ours", controls: Sequence[ControlName] = ("canny",)) -> InstantIDPipeline:
    """InstantID with IdentityNet and ControlNets; in the ways of others only a place to keep stock networks."""
    unet = networks.unet(kit, BASES["instantid"])
    lora = draw_lora(unet, RANKS[kit.size])
    layers = networks.identity_layers(kit, unet, NAMES)
    if way == "upstream":
        add_lora(unet, lora)
    else:
        fuse_lora(unet, lora)
    identity_net, *nets = (networks.control_net(kit, f) for f in (IDENTITY_NET, *(FOLDERS[c][0] for c in controls)))
    if way == "ours":
        install_attention(unet)
        identity_net, *nets = map(adapt_control_net, (identity_net, *nets))
    stem = "instantid/ip-adapter"
    sections = split_sections(networks.state(kit, "instantid_ip_adapter", stem), Path(stem))
    return InstantIDPipeline(
        **networks.shared_parts(around(kit, way), BASES["instantid"]),
        unet=unet,
        identity_layers=layers,
        resampler=placed(Resampler.from_state(sections["image_proj"], Path(stem)), kit),
        identity_net=identity_net,
        controlnets=ControlNets.of(dict(zip(controls, nets, strict=True))),
        scheduler=lcm_scheduler(tiny_root() / BASES["instantid"] / "scheduler"),
        faces=GivenFace(),
    )


def pulid(kit: Kit, way: Way = "ours") -> PuLIDPipeline:
    """PuLID with its identity networks in float32; in the ways of others only a place to keep stock networks."""
    unet = networks.unet(kit, BASES["pulid"])
    layers = networks.identity_layers(kit, unet, KEY_VALUE)
    if way == "ours":
        install_attention(unet)
    elif way == "upstream":
        nn.Module.to(layers, torch.float32)
    eva, parser, checkpoint = (
        networks.state(kit, *names)
        for names in (
            ("eva02_clip_l_336", "pulid/eva_clip/EVA02_CLIP_L_336_psz14_s6B"),
            ("bisenet", "pulid/facexlib/parsing_bisenet"),
            ("pulid_v1", "pulid/pulid/pulid_v1"),
        )
    )
    encoder = {k.removeprefix(f"{ENCODER}."): v for k, v in checkpoint.items() if k.startswith(f"{ENCODER}.")}
    folder = tiny_root() / "pulid" / "eva_clip" if kit.size == "tiny" else Path("nowhere")
    return PuLIDPipeline(
        **networks.shared_parts(around(kit, way), BASES["pulid"]),
        unet=unet,
        identity_layers=layers,
        id_encoder=placed(IDEncoder.from_state(encoder, Path("pulid_v1")), kit),
        eva=placed(EVAVisionTower.from_state(eva, folder / "eva"), kit),
        face_parser=placed(BiSeNet.from_state(parser, Path("parsing_bisenet")), kit),
        scheduler=dpm_scheduler(tiny_root() / BASES["pulid"] / "scheduler", "sigma_min"),
        faces=GivenFace(),
    )


def around(kit: Kit, way: Way) -> Kit:
    """What text encoders and VAE run in: with us float16 beside a UNet in bfloat16, as `around_unet` says."""
    return kit.to(torch.float16) if way == "ours" and kit.dtype == torch.bfloat16 else kit


PIPELINES = {"instantid": instantid, "pulid": pulid}


def placed(net: Any, kit: Kit) -> Any:
    """`net` on the kit's device, in its own precision."""
    return nn.Module.to(net, kit.device).requires_grad_(False)


def prepared(pipeline: Any, kit: Kit, seed: int = 0, **changes: Any) -> Any:
    """The endpoint's default request, with these changes, made ready; of fewer steps on a tiny kit."""
    if kit.size == "tiny":
        changes.setdefault("num_inference_steps", TINY_STEPS)
    if isinstance(pipeline, InstantIDPipeline):
        size = changes.pop("size", SIZES[kit.size, "instantid"])
        return pipeline.prepare(InstantIDRequest(PROMPT, size=size, seed=seed, **changes), [photo(size)])
    width, height = changes.pop("size", SIZES[kit.size, "pulid"])
    request = PuLIDRequest(PROMPT, width=width, height=height, seed=seed, **changes)
    return pipeline.prepare(request, [photo((width, height))])


def check_finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, when it looks like what a network makes. Raises ArithmeticError otherwise.

    Zeros and infinities would run faster than numbers do, and hide mistakes.
    """
    values = tensor.detach().float()
    if not torch.isfinite(values).all():
        raise ArithmeticError(f"{name} is not finite")
    if not 1e-3 <= (spread := float(values.std())) <= 1e3 or math.isnan(spread):
        raise ArithmeticError(f"{name} has a standard deviation of {spread:.2g}: outside 1e-3..1e3")
    return tensor
