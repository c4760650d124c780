"""Read PuLID's parts from its folder (layout: weights/tiny/pulid; pulid.md §A11, §B)."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import nn

from pipelines.checkpoint import load_state, part, rehearsed, require
from pipelines.errors import LoadError
from pipelines.profile import Profile
from pipelines.pulid.nets.bisenet import BiSeNet
from pipelines.pulid.nets.eva import EVAVisionTower
from pipelines.pulid.nets.id_encoder import IDEncoder
from pipelines.sdxl.attention import IdentityLayers, install_attention
from pipelines.sdxl.load import load_parts, load_unet, read_device, resolve_device, settle
from pipelines.shelf import Shelf

ENCODER, LAYERS = "id_adapter", "id_adapter_attn_layers"
"""The two sections of PuLID's checkpoint."""

LIGHTNING = "sdxl_lightning/sdxl_lightning_4step_unet.safetensors"
"""SDXL-Lightning's UNet, below PuLID's folder."""

KEY_VALUE = ("id_to_k", "id_to_v")
"""The checkpoint's names of the identity projections."""


def load_networks(folder: Path, profile: Profile, shelf: Shelf) -> dict[str, Any]:
    """Every registered component of PuLIDPipeline, by name. Raises LoadError naming a file."""
    resolve_device(profile)
    return rehearsed(lambda profile: build_networks(folder, profile, shelf), profile)


def build_networks(folder: Path, profile: Profile, shelf: Shelf) -> dict[str, Any]:
    """The components on the profile's device; on the meta device from the files' names and shapes alone."""
    base = folder / "sdxl_base"
    parts = load_parts(base, profile, shelf)
    unet = load_unet(base, profile, folder / LIGHTNING)
    install_attention(unet)
    read = partial(load_state, device=read_device(profile), prepared=profile.prepared)
    eva = read(folder / "eva_clip" / "EVA02_CLIP_L_336_psz14_s6B")
    parser = read(folder / "facexlib" / "parsing_bisenet")
    return {
        "vae": parts.vae,
        "text_encoder": parts.text_encoder,
        "text_encoder_2": parts.text_encoder_2,
        "tokenizer": parts.tokenizer,
        "tokenizer_2": parts.tokenizer_2,
        "unet": settle(unet, profile),
        **load_identity(folder / "pulid" / "pulid_v1", unet, profile),
        "eva": settle(EVAVisionTower.from_state(*eva), profile),
        "face_parser": settle(BiSeNet.from_state(*parser), profile),
        "scheduler": load_scheduler(base / "scheduler", profile.final_sigmas),
    }


def load_identity(stem: Path, unet: UNet2DConditionModel, profile: Profile) -> dict[str, nn.Module]:
    """PuLID's own networks: the IDEncoder in float32, and the identity layers in the UNet's dtype."""
    state, file = load_state(stem, read_device(profile), prepared=profile.prepared)
    if strange := [key for key in state if key.split(".")[0] not in {ENCODER, LAYERS}]:
        raise LoadError(f"{file} is no PuLID v1 checkpoint: it holds {strange[0]} (and {len(strange) - 1} more)")
    with torch.device("meta"):  # what is built here takes its tensors from the file
        layers = IdentityLayers.from_state(part(state, LAYERS), unet, KEY_VALUE, file)
    return {
        "identity_layers": settle(layers, profile),
        "id_encoder": settle(IDEncoder.from_state(part(state, ENCODER), file), profile),
    }


def load_scheduler(folder: Path, final_sigmas: str) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ over the base's settings with trailing steps, as SDXL-Lightning wants them (pulid.md §A9)."""
    require(folder / "scheduler_config.json")
    config: Any = DPMSolverMultistepScheduler.load_config(folder, local_files_only=True)
    scheduler: Any = DPMSolverMultistepScheduler.from_config(
        config, timestep_spacing="trailing", final_sigmas_type=final_sigmas
    )
    return scheduler
