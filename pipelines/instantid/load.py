"""Read InstantID's parts from its folder (layout: weights/tiny/instantid; instantid.md §B)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from pipelines.errors import LoadError
from pipelines.instantid.controls import FOLDERS
from pipelines.instantid.identity_net import ControlNets, load_control_net
from pipelines.instantid.resampler import Resampler
from pipelines.profile import Profile
from pipelines.sdxl.attention import IdentityLayers, install_attention
from pipelines.sdxl.load import dtype_of, load_parts, load_state, load_unet, place, require, resolve_device

LORA_FILE = "pytorch_lora_weights.safetensors"
NAMES = ("to_k_ip", "to_v_ip")
LoRA = Literal["fused", "unfused", "none"]


def load_networks(folder: Path, profile: Profile, lora: LoRA) -> dict[str, Any]:
    """Every registered component of InstantIDPipeline, by name. Raises LoadError naming a file."""
    device, base = resolve_device(profile), folder / "base"
    unet = load_lcm_unet(folder, profile, lora)
    install_attention(unet, fuse=lora != "unfused")
    parts = load_parts(base, profile)
    state, file = load_state(folder / "ip-adapter")
    sections = split_sections(state, file)
    return {
        "vae": parts.vae,
        "text_encoder": parts.text_encoder,
        "text_encoder_2": parts.text_encoder_2,
        "tokenizer": parts.tokenizer,
        "tokenizer_2": parts.tokenizer_2,
        "unet": place(unet, device),
        "identity_layers": place(IdentityLayers.from_state(sections["ip_adapter"], unet, NAMES, file), device),
        "resampler": place(Resampler.from_state(sections["image_proj"], file), device),
        "identity_net": load_control_net(folder / "ControlNetModel", profile),
        "controlnets": load_control_nets(folder, profile),
        "scheduler": load_scheduler(base / "scheduler"),
    }


def load_lcm_unet(folder: Path, profile: Profile, lora: LoRA) -> UNet2DConditionModel:
    """The base's UNet with LCM's LoRA, fused in float32 before the cast, so that no step pays for it."""
    unet = load_unet(folder / "base" / "unet", replace(profile, dtype="float32"))
    if lora != "none":
        add_lora(unet, folder / LORA_FILE)
    if lora == "fused":
        unet.fuse_lora()
        unet.unload_lora()
    nn.Module.to(unet, dtype_of(profile))  # diffusers' own `to` warns about an empty list
    return unet


def add_lora(unet: UNet2DConditionModel, file: Path) -> None:
    """Put a LoRA beside the UNet's layers; its strength comes from the file's own alphas (instantid.md §A9).

    Raises:
        LoadError: naming the file, when it is missing or a module in it has no place in this UNet.
    """
    loader: Any = StableDiffusionXLLoraLoaderMixin
    try:
        state, alphas = loader.lora_state_dict(str(require(file)), unet_config=unet.config, local_files_only=True)
        modules = len(state) // 2
        loader.load_lora_into_unet(state, alphas, unet)
        placed = sum(isinstance(module, BaseTunerLayer) for module in unet.modules())
    except (KeyError, ValueError, RuntimeError) as error:
        raise LoadError(f"{file} does not fit the UNet: {error}") from error
    if not modules or placed != modules:
        raise LoadError(f"{file} does not fit the UNet: {modules} LoRA modules, of which {placed} found their layer")


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
    euler: Any = EulerDiscreteScheduler.from_pretrained(require(folder), local_files_only=True)
    known = {key: value for key, value in euler.config.items() if key != "skip_prk_steps"}  # PNDM's; warned about
    scheduler: Any = LCMScheduler.from_config(known)
    return scheduler
