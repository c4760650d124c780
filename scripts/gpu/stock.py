"""The recorded requests computed by diffusers' own networks and loops: what a precision costs without us.

Everything that our pipelines do before the loop and after it is done by them; the text encoders and the VAE run in the
profile's precision, as diffusers runs them. Only requests that the loops of `upstream_steps` and `usual_steps` can do:
one picture, guided, with a face.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor, nn

from pipelines.instantid.controls import FOLDERS
from pipelines.instantid.identity_net import ControlNets
from pipelines.instantid.load import IDENTITY_NET
from pipelines.instantid.lora import load_lcm_unet
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.instantid.prepared import InstantIDPrepared
from pipelines.profile import Profile
from pipelines.pulid.load import LIGHTNING
from pipelines.pulid.pipeline import MODES, PuLIDPipeline
from pipelines.pulid.prepared import PuLIDPrepared
from pipelines.sdxl.attention import Identity
from pipelines.sdxl.denoise import Step, draw_noise
from pipelines.sdxl.load import dtype_of, load_unet, read_net
from pipelines.sdxl.text import Prompt
from scripts import step_inputs, upstream_steps, usual_steps


class StockInstantID(InstantIDPipeline):
    """Stock UNet, IdentityNet and ControlNets below our `generate`, and upstream's step."""

    @classmethod
    def load(cls, folder: Path, profile: Profile, *args: Any, **kwargs: Any) -> Self:
        """See InstantIDPipeline."""
        self = super().load(folder, profile, *args, **kwargs)
        self.unet = load_lcm_unet(folder, folder / "base", profile, "fused")
        self.identity_net = read_net(ControlNetModel, folder / IDENTITY_NET, profile)
        places = {name: folder / FOLDERS[name][0] for name in self.controlnets.names}
        nets = {name: read_net(ControlNetModel, place, profile) for name, place in places.items()}
        self.controlnets = ControlNets.of(nets)
        return plain(self, profile)

    def make_step(
        self, prepared: Sequence[InstantIDPrepared], prompt: Prompt, face: Tensor | None, fresh: Sequence[Tensor]
    ) -> Step:
        """Upstream's loop, going on with the generator that drew the first noise."""
        (one,) = prepared
        nets = [self.identity_net, *(self.controlnets[control.name] for control in one.controls)]
        generator = torch.Generator().manual_seed(one.seed)
        draw_noise((4, one.size[1] // 8, one.size[0] // 8), generator, 1)
        weights, scheduler = step_inputs.identity_weights(self.identity_layers), copy.deepcopy(self.scheduler)
        inputs = step_inputs.instantid_inputs(self, one)
        return upstream_steps.instantid(self.unet, nets, weights, scheduler, inputs, generator)


class StockPuLID(PuLIDPipeline):
    """A stock UNet below our `generate`, and upstream's step."""

    @classmethod
    def load(cls, folder: Path, profile: Profile, *args: Any, **kwargs: Any) -> Self:
        """See PuLIDPipeline."""
        self = super().load(folder, profile, *args, **kwargs)
        self.unet = load_unet(folder / "sdxl_base", profile, folder / LIGHTNING)
        return plain(self, profile)

    def make_step(
        self, prepared: Sequence[PuLIDPrepared], prompt: Prompt, identity: Identity | None, latents: Tensor
    ) -> Step:
        """Upstream's loop with the identity in the weights' precision."""
        (one,) = prepared
        mode = next(name for name, mode in usual_steps.MODES.items() if mode is MODES[one.request.mode])
        weights, scheduler = step_inputs.identity_weights(self.identity_layers), copy.deepcopy(self.scheduler)
        return usual_steps.pulid(self.unet, weights, scheduler, step_inputs.pulid_inputs(self, one), mode)


def plain(pipeline: Any, profile: Profile) -> Any:
    """The pipeline with its text encoders and its VAE in the profile's precision."""
    for net in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.vae):
        nn.Module.to(net, dtype_of(profile))
    return pipeline


def of_instantid(case: dict[str, Any]) -> bool:
    """Whether upstream's loop can do this recorded request."""
    return case["pipeline"] != "single" and case["lora"] == "fused" and case["guidance"] > 1


def of_pulid(case: dict[str, Any]) -> bool:
    """Whether upstream's loop can do this recorded request."""
    params = case["params"]
    return bool(params["refs"]) and params["id_scale"] != 0 and params["scale"] > 1 and params["n"] == 1
