"""The tiny pipelines with networks of SDXL's depth: 70 cross attentions, and so few channels that arithmetic is free.

What remains is the host's work: Python, and dispatching as many operations as on the real weights.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pipelines.faces.analysis import Face
from pipelines.instantid.endpoint import InstantIDRequest
from pipelines.instantid.identity_net import ControlNets, adapt_control_net
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.instantid.prepared import InstantIDPrepared
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.pulid.prepared import PuLIDPrepared
from pipelines.sdxl.attention import IdentityLayers, attentions, install_attention
from pipelines.sdxl.denoise import Step

TINY = Path(__file__).parents[1] / "weights/tiny"
SIDE = 64
"""Of the pictures, in pixels."""

SHAPE: dict[str, Any] = {
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "block_out_channels": (32, 64, 64),
    "attention_head_dim": (2, 4, 4),
}
"""SDXL's depth (arXiv:2307.01952 table 1) at a twentieth of its width or less."""

PHOTO = Image.fromarray(np.random.default_rng(2).integers(0, 255, (SIDE, SIDE, 3), np.uint8))


class OneFace:
    """A face analyser that finds the same face in every photo."""

    def largest(self, image: Image.Image, retry: bool = True) -> Face:
        keypoints = np.array([[24, 24], [40, 24], [32, 34], [26, 44], [38, 44]], np.float32)
        embedding = np.random.default_rng(0).normal(0, 0.8, 512).astype(np.float32)
        return Face(np.array([8, 8, 50, 56], np.float32), keypoints, 1.0, embedding)

    def crop(self, image: Image.Image, face: Face) -> NDArray[np.uint8]:
        return np.random.default_rng(1).integers(0, 255, (512, 512, 3), np.uint8)


def network(cls: Any, config: Path, dtype: torch.dtype) -> Any:
    """A diffusers network after a tiny one's configuration, of full depth, with the same random weights each time.

    What starts at zero (a ControlNet's last convolutions) is drawn too, so that leaving it out would show.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = cls.from_config({**cls.load_config(config), **SHAPE})
        for parameter in net.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return nn.Module.to(net, dtype).eval()


def unet(folder: str, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """A UNet as diffusers makes it, with diffusers' attention; `folder` is that of the SDXL base below weights/tiny."""
    return network(UNet2DConditionModel, TINY / folder / "unet", dtype)


def control_net(name: str, dtype: torch.dtype = torch.float32) -> ControlNetModel:
    """A ControlNet as diffusers makes it, with diffusers' attention."""
    return network(ControlNetModel, TINY / "instantid" / name, dtype)


def identity_layers(net: UNet2DConditionModel) -> IdentityLayers:
    """Random identity projections for every cross attention of `net`."""
    places = [(index, attn) for index, attn in enumerate(attentions(net)) if attn.is_cross_attention]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = IdentityLayers(
            context_width=net.config["cross_attention_dim"],
            widths=[attn.inner_dim for _, attn in places],
            heads=[attn.heads for _, attn in places],
            indices=[index for index, _ in places],
            names=["key", "value"],
        )
    nn.Module.to(layers, net.dtype)
    return layers.eval()


def profile(dtype: torch.dtype) -> Profile:
    """The tiny profile on the CPU, in this precision."""
    name: Any = str(dtype).removeprefix("torch.")
    return Profile(device="cpu", dtype=name, tiny=True)


def instantid(dtype: torch.dtype = torch.float32) -> InstantIDPipeline:
    """InstantIDPipeline with UNet, IdentityNet and canny ControlNet of full depth."""
    pipeline = InstantIDPipeline.load(TINY / "instantid", profile(dtype), faces=OneFace())
    deep = unet("instantid/base", dtype)
    install_attention(deep)
    pipeline.register_modules(
        unet=deep,
        identity_layers=identity_layers(deep),
        identity_net=adapt_control_net(control_net("ControlNetModel", dtype)),
        controlnets=ControlNets.of({"canny": adapt_control_net(control_net("controlnet-canny", dtype))}),
    )
    return pipeline


def pulid(dtype: torch.dtype = torch.float32) -> PuLIDPipeline:
    """PuLIDPipeline with a UNet of full depth."""
    pipeline = PuLIDPipeline.load(TINY / "pulid", profile(dtype), faces=OneFace())
    deep = unet("pulid/sdxl_base", dtype)
    install_attention(deep)
    pipeline.register_modules(unet=deep, identity_layers=identity_layers(deep))
    return pipeline


def instantid_prepared(pipeline: InstantIDPipeline, **changes: Any) -> InstantIDPrepared:
    """A default request (guided, masked, IdentityNet and canny) with these changes, made ready."""
    return pipeline.prepare(InstantIDRequest("a man", size=(SIDE, SIDE), seed=0, **changes), [PHOTO])


def pulid_prepared(pipeline: PuLIDPipeline, **changes: Any) -> PuLIDPrepared:
    """A default request (guided, fidelity) with these changes, made ready."""
    return pipeline.prepare(PuLIDRequest("a man", width=SIDE, height=SIDE, seed=0, **changes), [PHOTO])


def instantid_step(pipeline: InstantIDPipeline, **changes: Any) -> tuple[Step, Tensor]:
    """The step of a default request (guided, masked, IdentityNet and canny) with these changes, and its latents."""
    prepared = [instantid_prepared(pipeline, **changes)]
    latents, *fresh = pipeline.draw_latents(prepared)
    step = pipeline.make_step(prepared, pipeline.encode_prompt(prepared), pipeline.encode_face(prepared), fresh)
    return step, latents


def pulid_step(pipeline: PuLIDPipeline, **changes: Any) -> tuple[Step, Tensor]:
    """The step of a default request (guided, fidelity) with these changes, and its latents."""
    prepared = [pulid_prepared(pipeline, **changes)]
    identity, latents = pipeline.encode_identity(prepared), pipeline.draw_latents(prepared)
    return pipeline.make_step(prepared, pipeline.encode_prompt(prepared), identity, latents), latents
