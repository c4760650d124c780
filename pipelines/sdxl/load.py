"""Read SDXL's parts from a diffusers folder. One loader for tiny and real files; nothing is ever downloaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from pipelines.errors import LoadError
from pipelines.profile import Profile

Net = TypeVar("Net", bound=nn.Module)

MAX_TOKENS = 77
"""CLIP's context length; said to the tokenizer because hand-made ones do not know it (dependencies.md §3)."""


@dataclass(frozen=True)
class SDXLParts:
    """The shared parts of an SDXL checkpoint, without its UNet."""

    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    vae: AutoencoderKL


def resolve_device(profile: Profile) -> torch.device:
    """The profile's device, or LoadError: never another one, nor another way of running, instead."""
    if unbuilt := [name for name in ("compile", "graphs", "offload") if getattr(profile, name)]:
        raise LoadError(f"the profile asks for {', '.join(unbuilt)}, which this version does not do; leave it off")
    device = torch.device(profile.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LoadError(
            f"device {profile.device} was asked for, but torch {torch.__version__} sees no CUDA GPU. Run "
            "`veraicon doctor` to see why, or set VERAICON_DEVICE=cpu to run on the CPU, slowly"
        )
    return device


def dtype_of(profile: Profile) -> torch.dtype:
    """The profile's precision as torch's dtype."""
    return getattr(torch, profile.dtype)


def require(path: Path) -> Path:
    """`path` if it exists, else LoadError naming it."""
    if not path.exists():
        raise LoadError(f"{path} is missing. `veraicon weights list` tells where it comes from and where it goes")
    return path


def read_net(cls: type[Net], folder: Path, dtype: torch.dtype) -> Net:
    """A network of diffusers or transformers from its folder, the fp16 files when it holds them; nothing is downloaded.

    Raises:
        LoadError: naming the folder, and what is missing, unexpected or misshapen in it.
    """
    half = any(require(folder).glob("*.fp16.*"))
    options = {"variant": "fp16" if half else None, "local_files_only": True, "use_safetensors": True}
    opener: Any = cls
    try:
        net, info = opener.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise LoadError(f"{folder} cannot be read as a {cls.__name__}: {error}") from error
    if wrong := {kind: sorted(keys) for kind, keys in info.items() if keys}:
        raise LoadError(f"{folder} does not fit {cls.__name__}: {wrong}")
    return net.eval()


def load_parts(base: Path, profile: Profile) -> SDXLParts:
    """Tokenizers, text encoders and VAE of a diffusers SDXL folder, in the profile's dtype, on its device."""
    device, dtype = resolve_device(profile), dtype_of(profile)
    disable_progress_bar()  # a bar per file of a second each would bury the server's own start-up lines
    vae = read_net(AutoencoderKL, base / "vae", dtype)
    if dtype == torch.float16 and vae.config["force_upcast"]:
        nn.Module.to(vae, torch.float32)  # SDXL's own VAE overflows in float16; the fp16-fix one needs no upcast

    def tokenizer(name: str) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(require(base / name), model_max_length=MAX_TOKENS, local_files_only=True)

    return SDXLParts(
        tokenizer=tokenizer("tokenizer"),
        tokenizer_2=tokenizer("tokenizer_2"),
        text_encoder=place(read_net(CLIPTextModel, base / "text_encoder", dtype), device),
        text_encoder_2=place(read_net(CLIPTextModelWithProjection, base / "text_encoder_2", dtype), device),
        vae=place(vae, device),
    )


def load_unet(folder: Path, profile: Profile, weights: Path | None = None) -> UNet2DConditionModel:
    """The UNet of a diffusers folder, or of its config with the tensors of another file, strictly.

    Not yet on the device: LoRA fusion and attention surgery come first.
    """
    if weights is None:
        return read_net(UNet2DConditionModel, folder, dtype_of(profile))
    config: Any = UNet2DConditionModel.load_config(require(folder))
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(config)
    state = {name: tensor.to(dtype_of(profile)) for name, tensor in read_tensors(require(weights)).items()}
    assign_state(unet, state, weights)
    return unet.eval()


def place(net: Net, device: torch.device) -> Net:
    """`net` on `device`; diffusers' own `to` does not say what it returns."""
    nn.Module.to(net, device)
    return net


def assign_state(net: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Strict load that takes the tensors as they are; LoadError lists what is missing, unexpected or misshapen."""
    try:
        net.load_state_dict(dict(state), strict=True, assign=True)
    except RuntimeError as error:
        raise LoadError(f"{file} does not fit {type(net).__name__}: {error}") from error


def load_state(stem: Path) -> tuple[dict[str, Tensor], Path]:
    """Tensors of `stem` with .safetensors, or of upstream's pickle (.bin, .pt, .pth), and the file they came from.

    Pickles are read with weights_only, which runs no code. Raises LoadError naming what is missing or unreadable.
    """
    for file in (stem.with_name(stem.name + suffix) for suffix in (".safetensors", ".bin", ".pt", ".pth")):
        if file.exists():
            return read_tensors(file), file
    raise LoadError(f"{stem}.* is missing. `veraicon weights list` tells where it comes from and where it goes")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of one file, on the CPU."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds; the file's name is what helps
        raise LoadError(f"{file} cannot be read: {error}") from error


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below `prefix`, without it."""
    return {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.split(".")[0] == prefix}
