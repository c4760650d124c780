"""Read InstantID's parts from its folder (layout: weights/tiny/instantid; instantid.md §B)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor, nn

from pipelines.checkpoint import load_state, rehearsed, require
from pipelines.errors import LoadError
from pipelines.instantid.controls import FOLDERS
from pipelines.instantid.identity_net import ControlNets, load_control_net
from pipelines.instantid.lora import LoRAUse, load_lcm_unet
from pipelines.instantid.resampler import Resampler
from pipelines.profile import Profile
from pipelines.sdxl.attention import IdentityLayers, install_attention
from pipelines.sdxl.load import load_parts, read_device, resolve_device, settle
from pipelines.shelf import Shelf

NAMES = ("to_k_ip", "to_v_ip")

IDENTITY_NET = "ControlNetModel"
"""Upstream's name of IdentityNet's folder."""


def load_networks(folder: Path, profile: Profile, lora: LoRAUse, shelf: Shelf) -> dict[str, Any]:
    """Every registered component of InstantIDPipeline, by name. Raises LoadError naming a file."""
    resolve_device(profile)
    return rehearsed(lambda profile: build_networks(folder, profile, lora, shelf), profile)


def build_networks(folder: Path, profile: Profile, lora: LoRAUse, shelf: Shelf) -> dict[str, Any]:
    """The components on the profile's device; on the meta device from the files' names and shapes alone."""
    base = folder / "base"
    unet = load_lcm_unet(folder, base, profile, lora)
    install_attention(unet, fuse=lora != "unfused")
    parts = load_parts(base, profile, shelf)
    return {
        "vae": parts.vae,
        "text_encoder": parts.text_encoder,
        "text_encoder_2": parts.text_encoder_2,
        "tokenizer": parts.tokenizer,
        "tokenizer_2": parts.tokenizer_2,
        "unet": settle(unet, profile),
        **load_adapter(folder, unet, profile),
        "identity_net": load_control_net(folder / IDENTITY_NET, profile),
        "controlnets": load_control_nets(folder, profile),
        "scheduler": load_scheduler(base / "scheduler"),
    }


def load_adapter(folder: Path, unet: UNet2DConditionModel, profile: Profile) -> dict[str, nn.Module]:
    """InstantID's IP-adapter: the Resampler, and the identity layers in the UNet's dtype."""
    state, file = load_state(folder / "ip-adapter", read_device(profile), prepared=profile.prepared)
    sections = split_sections(state, file)
    with torch.device("meta"):  # what is built here takes its tensors from the file
        layers = IdentityLayers.from_state(sections["ip_adapter"], unet, NAMES, file)
    return {
        "identity_layers": settle(layers, profile),
        "resampler": settle(Resampler.from_state(sections["image_proj"], file), profile),
    }


def split_sections(state: Mapping[str, Any], file: Path) -> dict[str, dict[str, Tensor]]:
    """The Resampler (image_proj) and the attention layers (ip_adapter): nested in a pickle, else prefixes."""
    sections: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in state.items():
        name, _, rest = key.partition(".")
        if name not in sections:
            raise LoadError(f"{file} is no InstantID adapter: it holds {key}")
        sections[name] |= value if isinstance(value, Mapping) else {rest: value}
    return sections


def load_control_nets(folder: Path, profile: Profile) -> ControlNets:
    """Canny, and pose and depth when their folder is there."""
    require(folder / FOLDERS["canny"][0])
    found = {name: [folder / f for f in names if (folder / f).is_dir()] for name, names in FOLDERS.items()}
    return ControlNets.of({name: load_control_net(paths[0], profile) for name, paths in found.items() if paths})


def load_scheduler(folder: Path) -> LCMScheduler:
    """LCM over the base's Euler settings, the way upstream's demo chains them (instantid.md §A8)."""
    require(folder / "scheduler_config.json")
    euler: Any = EulerDiscreteScheduler.from_pretrained(folder, local_files_only=True)
    known = {key: value for key, value in euler.config.items() if key != "skip_prk_steps"}  # PNDM's; warned about
    scheduler: Any = LCMScheduler.from_config(known)
    return scheduler
