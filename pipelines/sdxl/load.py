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
    """The profile's device, or LoadError: never another one instead."""
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


def variant(folder: Path) -> dict[str, Any]:
    """from_pretrained's arguments: the fp16 files when the folder holds them; local files only."""
    names = require(folder).glob("*.fp16.*")
    return {"variant": "fp16" if any(names) else None, "local_files_only": True, "use_safetensors": True}


def load_parts(base: Path, profile: Profile) -> SDXLParts:
    """Tokenizers, text encoders and VAE of a diffusers SDXL folder, in the profile's dtype, on its device."""
    device, dtype = resolve_device(profile), dtype_of(profile)
    disable_progress_bar()  # a bar per file of a second each would bury the server's own start-up lines

    def load(cls: Any, name: str) -> Any:
        folder = require(base / name)
        return cls.from_pretrained(folder, dtype=dtype, **variant(folder)).to(device).eval()

    vae = load(AutoencoderKL, "vae")
    if vae.dtype == torch.float16 and vae.config["force_upcast"]:
        vae = vae.to(
            dtype=torch.float32
        )  # SDXL's own VAE overflows in float16; the fp16-fix one says force_upcast false

    def tokenizer(name: str) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(require(base / name), model_max_length=MAX_TOKENS, local_files_only=True)

    return SDXLParts(
        tokenizer=tokenizer("tokenizer"),
        tokenizer_2=tokenizer("tokenizer_2"),
        text_encoder=load(CLIPTextModel, "text_encoder"),
        text_encoder_2=load(CLIPTextModelWithProjection, "text_encoder_2"),
        vae=vae,
    )


def load_unet(folder: Path, profile: Profile, weights: Path | None = None) -> UNet2DConditionModel:
    """The UNet of a diffusers folder, or of its config with the tensors of another file, strictly.

    Not yet on the device: LoRA fusion and attention surgery come first.
    """
    if weights is None:
        return UNet2DConditionModel.from_pretrained(folder, dtype=dtype_of(profile), **variant(folder)).eval()
    config: Any = UNet2DConditionModel.load_config(require(folder))
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(config)
    state = {name: tensor.to(dtype_of(profile)) for name, tensor in load_file(require(weights)).items()}
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
