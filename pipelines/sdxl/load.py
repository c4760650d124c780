"""Read SDXL's parts from a diffusers folder, or from one file beside it; tiny and real ones alike, never downloaded.

Two layouts of an SDXL base `sdxl` are read: the folder `sdxl/` with the weights of each network in its own folder, and
the single file `sdxl.safetensors` beside that folder, which then holds the configs and tokenizers only.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel

from pipelines.checkpoint import Change, State, assign_state, keep, read_tensors, require, state_file
from pipelines.errors import LoadError
from pipelines.memory import choose
from pipelines.profile import Profile
from pipelines.sdxl.single_file import from_single_file
from pipelines.shelf import Shelf

Net = TypeVar("Net", bound=nn.Module)

MAX_TOKENS = 77
"""CLIP's context length; said to the tokenizer because hand-made ones do not know it (dependencies.md §3)."""

FP16_FIX = "vae-fp16-fix"
"""Folder beside `vae` for the VAE that does not overflow in half precision (madebyollin/sdxl-vae-fp16-fix)."""

OBSOLETE = "position_ids"
"""A table 0..76 that older text encoders saved; the network makes it itself."""

EncoderName = Literal["text_encoder", "text_encoder_2"]
ENCODERS: dict[EncoderName, type[PreTrainedModel]] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


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


def read_device(profile: Profile) -> str:
    """Where files are read to: the CPU, or nowhere when only their shapes are wanted.

    What is mapped there costs no memory, and `fill` takes it to the card tensor by tensor.
    """
    return "meta" if profile.device == "meta" else "cpu"


def dtype_of(profile: Profile) -> torch.dtype:
    """The profile's precision as torch's dtype."""
    return getattr(torch, profile.dtype)


def around_unet(profile: Profile) -> Profile:
    """The profile that text encoders and VAE are read with: float16 beside a UNet in bfloat16.

    They never need its range, bfloat16's rounding of the texts alone would be half of a picture's error, and the VAE's
    would be whole levels of its pixels (decision 0044).
    """
    return replace(profile, dtype="float16") if profile.dtype == "bfloat16" else profile


def read_net(cls: type[Net], folder: Path, profile: Profile) -> Net:
    """A network of diffusers or transformers from its folder, in the profile's dtype, where it lives.

    Raises:
        LoadError: naming the file, and what is missing, unexpected or misshapen in it.
    """
    net = empty_net(cls, folder)
    return fill(net, *read_folder(net, folder, profile), profile)


def empty_net(cls: type[Net], folder: Path) -> Net:
    """A network of the folder's config.json, its parameters on the meta device. Raises LoadError."""
    config = require(folder / "config.json")
    kind: Any = cls
    try:
        with init_empty_weights():
            if issubclass(cls, PreTrainedModel):
                return kind(kind.config_class.from_pretrained(folder, local_files_only=True)).eval()
            return kind.from_config(kind.load_config(folder, local_files_only=True)).eval()
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise LoadError(f"{config} does not describe a {cls.__name__}: {error}") from error


def read_folder(net: nn.Module, folder: Path, profile: Profile) -> tuple[State, Path]:
    """The tensors for `net` in its folder, and the file that names them."""
    files, names_them = files_in(folder, type(net))
    tensors = [read_tensors(file, read_device(profile)) for file in files]
    return {key: value for one in tensors for key, value in one.items()}, names_them


def files_in(folder: Path, cls: type[nn.Module]) -> tuple[list[Path], Path]:
    """The one file, or the shards, with a network's tensors in its folder, fp16 files first; and what names them."""
    name = "model" if issubclass(cls, PreTrainedModel) else "diffusion_pytorch_model"
    for index in sorted(folder.glob(f"{name}*.index*.json")):
        return [folder / shard for shard in shards_of(index)], index
    half = any(folder.glob(f"{name}.fp16.*"))
    file = state_file(folder / (f"{name}.fp16" if half else name))
    return [file], file


def shards_of(index: Path) -> list[str]:
    """The files that an index of shards names. Raises LoadError when it is none."""
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{index} is no index of shards ({error!r}). Download it again") from error


def read_part(net: nn.Module, base: Path, name: str, profile: Profile) -> tuple[State, Path]:
    """The tensors for the network `name` of an SDXL base in either layout, and the file that they came from."""
    single = single_file_of(base)
    if not single.exists():
        return read_folder(net, base / name, profile)
    return from_single_file(read_tensors(single, read_device(profile)), net, name, single), single


def files_of_part(cls: type[nn.Module], base: Path, name: str) -> list[Path]:
    """The files that `read_part` reads."""
    single = single_file_of(base)
    return [single] if single.exists() else files_in(base / name, cls)[0]


def single_file_of(base: Path) -> Path:
    """Where a base lies when it is one file."""
    return base.with_name(f"{base.name}.safetensors")


def fill(net: Net, state: State, file: Path, profile: Profile, change: Change = keep) -> Net:
    """Give an empty network its tensors: brought one by one to where it lives, changed there, then cast.

    One by one, because a card has no room for a file of other networks, or of float32, beside what lives there.

    Raises:
        LoadError: names or shapes differ.
    """
    home, dtype = home_of(profile), dtype_of(profile)
    outer = "text_model." if isinstance(net, CLIPTextModel) else ""  # transformers has it in the files only
    state = {key.removeprefix(outer): value for key, value in state.items() if not key.endswith(OBSOLETE)}
    assign_state(net, state, file, outer, lambda key, tensor: change(key, tensor.to(home)).to(dtype))
    return net


def load_parts(base: Path, profile: Profile, shelf: Shelf | None = None) -> SDXLParts:
    """Tokenizers, text encoders and VAE of an SDXL base, on the profile's device, in the dtype of `around_unet`.

    The VAE runs in float32 unless it is one made for half precision (instantid.md §A16).

    Args:
        shelf: where networks made of the same files may be; a rehearsal leaves nothing there.
    """
    shelf = Shelf() if shelf is None or profile.device == "meta" else shelf
    return SDXLParts(
        tokenizer=read_tokenizer(base / "tokenizer"),
        tokenizer_2=read_tokenizer(base / "tokenizer_2"),
        text_encoder=load_encoder("text_encoder", base, profile, shelf),
        text_encoder_2=load_encoder("text_encoder_2", base, profile, shelf),
        vae=load_vae(base, profile, shelf),
    )


def load_encoder(name: EncoderName, base: Path, profile: Profile, shelf: Shelf, configs: Path | None = None) -> Any:
    """A text encoder of an SDXL base on the profile's device; `configs` is the base whose config.json describes it."""
    cls: Any = ENCODERS[name]
    config = (configs or base) / name

    def make() -> Any:
        net = empty_net(cls, config)
        return settle(fill(net, *read_part(net, base, name, profile), around_unet(profile)), profile)

    return shelf.get((cls, profile), [config / "config.json", *files_of_part(cls, base, name)], make)


def load_vae(base: Path, profile: Profile, shelf: Shelf, configs: Path | None = None) -> AutoencoderKL:
    """The VAE that `read_vae` reads, on the profile's device."""
    fixed = fixed_vae(base, profile)
    config = fixed or (configs or base) / "vae"
    files = files_in(fixed, AutoencoderKL)[0] if fixed else files_of_part(AutoencoderKL, base, "vae")
    return shelf.get(
        (AutoencoderKL, profile),
        [config / "config.json", *files],
        lambda: settle(read_vae(base, profile, configs), profile),
    )


def read_vae(base: Path, profile: Profile, configs: Path | None = None) -> AutoencoderKL:
    """The base's VAE in float32, or in half precision one that its config calls fit for it (`force_upcast` false)."""
    profile = around_unet(profile)
    if fixed := fixed_vae(base, profile):
        return read_net(AutoencoderKL, fixed, profile)
    vae = empty_net(AutoencoderKL, (configs or base) / "vae")
    tensors, file = read_part(vae, base, "vae", profile)
    return fill(vae, tensors, file, replace(profile, dtype="float32") if vae.config["force_upcast"] else profile)


def fixed_vae(base: Path, profile: Profile) -> Path | None:
    """The folder of the VAE that is to be taken in half precision, when the base has one."""
    fixed = base / FP16_FIX
    return fixed if profile.dtype != "float32" and fixed.is_dir() else None


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer from its folder. Raises LoadError naming the file that it lacks."""
    if not (folder / "tokenizer.json").exists():
        require(folder / "vocab.json")
        require(folder / "merges.txt")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS, local_files_only=True)


def load_unet(base: Path, profile: Profile, weights: Path | None = None, change: Change = keep) -> UNet2DConditionModel:
    """The UNet of an SDXL base, or of its config with the tensors of another file.

    Not yet settled: attention surgery comes first.
    """
    unet = empty_net(UNet2DConditionModel, base / "unet")
    if weights is None:
        tensors, file = read_part(unet, base, "unet", profile)
    else:
        tensors, file = read_tensors(weights, read_device(profile)), weights
    return fill(unet, tensors, file, profile, change)


def settle(net: Net, profile: Profile) -> Net:
    """`net` where it lives, with its buffers, laid out as the profile says."""
    place(net, home_of(profile))
    if profile.channels_last:
        nn.Module.to(net, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  it takes it
    return net


def home_of(profile: Profile) -> torch.device:
    """Where networks live: on the profile's device, or in the computer's memory if they are to come when needed."""
    return torch.device("cpu") if waits(profile) else resolve_device(profile)


def waits(profile: Profile) -> bool:
    """Whether networks live in the computer's memory; a rehearsal's live nowhere."""
    return profile.offload and profile.device != "meta"


def resolved(profile: Profile) -> Profile:
    """The profile with its memory chosen by the card, where that was left to us.

    Raises:
        LoadError: the card is too small, or there is none.
    """
    device = resolve_device(profile)
    if profile.memory != "auto":
        return profile
    memory = choose(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else "48gb"
    stay = memory == "48gb"
    return replace(profile, memory=memory, graphs=profile.graphs and stay, compile=profile.compile and stay)


def place(net: Net, device: torch.device) -> Net:
    """`net` on `device`; diffusers' own `to` does not say what it returns."""
    nn.Module.to(net, device)
    return net
