"""Other base models: SDXL checkpoints that the operator put into the folder `bases`, chosen by a request's model_name.

Below InstantID's folder, `bases/NAME/` is a diffusers folder and `bases/NAME.safetensors` a single file; what a base
does not bring of its own (text encoders, VAE, configs) is the default base's, and so are the tokenizers and the
scheduler's settings. Presence at load is the registration: nothing is ever looked up or downloaded by a client's word.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from pipelines.instantid.lora import LoRAUse, load_lcm_unet
from pipelines.profile import Profile
from pipelines.sdxl.attention import install_attention
from pipelines.sdxl.load import ENCODERS, load_encoder, load_vae, settle, single_file_of
from pipelines.shelf import Shelf

FOLDER, FILE_END = "bases", ".safetensors"

Networks = dict[str, Any]
"""By the name of the pipeline's component."""


@dataclass(frozen=True)
class Base:
    """The networks that a base model decides."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    vae: AutoencoderKL


class Bases:
    """The registered bases. One of them at most is in memory, beside the default one, from its first use on.

    Args:
        names: those that a request may give. read: makes a base's own networks, on the device.
    """

    def __init__(self, names: Sequence[str] = (), read: Callable[[str], Networks] | None = None) -> None:
        self.names = tuple(names)
        self._read = read
        self._resident: tuple[str, Networks] | None = None

    @property
    def resident(self) -> str | None:
        """The base that is in memory now."""
        return self._resident and self._resident[0]

    def take(self, name: str) -> Networks:
        """The networks of a registered base; called by the thread that generates, and by no other.

        Raises:
            LoadError: its files have changed since the start. KeyError: it is not registered.
        """
        if self._read is None or name not in self.names:
            raise KeyError(name)
        if self._resident is None or self._resident[0] != name:
            self._resident = None  # before the next one comes, so that there are never two
            with torch.inference_mode(False):  # weights that are made inside could never be changed or moved
                self._resident = name, self._read(name)
        return self._resident[1]


def find_bases(folder: Path, profile: Profile, lora: LoRAUse, shelf: Shelf) -> Bases:
    """The bases below InstantID's `folder`, each found right from its files' names and shapes, none of them read.

    Raises:
        LoadError: naming the file that is missing, or is no SDXL with the default base's shapes.
    """
    names = base_names(folder / FOLDER)
    for name in names:
        read_base(folder, name, replace(profile, device="meta"), lora, Shelf())
    return Bases(names, lambda name: read_base(folder, name, profile, lora, shelf))


def base_names(folder: Path) -> list[str]:
    """The names in the folder of bases; a name that begins with a dot is none."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [path.name if path.is_dir() else path.name.removesuffix(FILE_END) for path in found if is_base(path)]
    return list(dict.fromkeys(names))


def is_base(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or path.name.endswith(FILE_END))


def read_base(folder: Path, name: str, profile: Profile, lora: LoRAUse, shelf: Shelf) -> Networks:
    """A base's own networks on the profile's device: its UNet with LCM's LoRA, and what else it brings."""
    default, base = folder / "base", folder / FOLDER / name
    unet = load_lcm_unet(folder, base, profile, lora)
    install_attention(unet, fuse=lora != "unfused")
    own: Networks = {"unet": settle(unet, profile)}
    for encoder in ENCODERS:
        if brings(base, encoder):
            own[encoder] = load_encoder(encoder, base, profile, shelf, configs=default)
    if brings(base, "vae"):
        described = (base / "vae" / "config.json").is_file()
        own["vae"] = load_vae(base, profile, shelf, configs=base if described else default)
    return own


def brings(base: Path, part: str) -> bool:
    """Whether a base has a network of its own: one file has them all."""
    return single_file_of(base).is_file() or (base / part).is_dir()
