"""Networks of the real sizes with random numbers, made on the device itself; or the tiny ones, to try the program.

No checkpoint is read. The same size and seed give the same numbers each time, so that a network can be made twice:
once for us, once as diffusers has it.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel

from pipelines.checkpoint import load_state
from pipelines.sdxl.attention import IdentityLayers, attentions
from pipelines.sdxl.load import read_tokenizer
from scripts.make_stand_ins import SIZES, kind_of
from weights.store import read_shapes, tiny_root

Net = TypeVar("Net", bound=nn.Module)

GAIN = 1 / math.sqrt(3)
"""Of a weight's standard deviation over 1 / sqrt(inputs), as PyTorch itself starts a layer."""

SMALL = 0.02
"""Standard deviation of what starts at zero: left at zero, whatever it multiplies would not be tested."""


@dataclass(frozen=True)
class Kit:
    """Which networks to make.

    Args:
        size: full, the real sizes; tiny, those of weights/tiny.
        device: where they are made and stay; on ``"meta"`` they have shapes and no numbers.
        dtype: what they run in. All sizes are drawn in the precision that `drawn` says, then cast: a float32 kit has
            the very numbers of the half-precision one.
    """

    size: Literal["full", "tiny"]
    device: str
    dtype: torch.dtype

    @property
    def drawn(self) -> torch.dtype:
        return torch.float16 if self.size == "full" else torch.float32

    def to(self, dtype: torch.dtype) -> "Kit":
        """The same numbers in another precision."""
        return replace(self, dtype=dtype)


def unet(kit: Kit, base: str) -> UNet2DConditionModel:
    """A UNet as diffusers makes it; `base` is the folder of the SDXL base below weights/tiny."""
    return draw_net(kit, UNet2DConditionModel, tiny_root() / base / "unet")


def control_net(kit: Kit, name: str) -> ControlNetModel:
    """A ControlNet as diffusers makes it."""
    return draw_net(kit, ControlNetModel, tiny_root() / "instantid" / name)


def shared_parts(kit: Kit, base: str) -> dict[str, Any]:
    """Tokenizers, text encoders, and a VAE that is fit for half precision."""
    folder = tiny_root() / base
    return {
        "tokenizer": read_tokenizer(folder / "tokenizer"),
        "tokenizer_2": read_tokenizer(folder / "tokenizer_2"),
        "text_encoder": draw_net(kit, CLIPTextModel, folder / "text_encoder"),
        "text_encoder_2": draw_net(kit, CLIPTextModelWithProjection, folder / "text_encoder_2"),
        "vae": draw_net(kit, AutoencoderKL, folder / "vae"),
    }


def identity_layers(kit: Kit, net: UNet2DConditionModel, names: tuple[str, str]) -> IdentityLayers:
    """Projections of the identity for every cross attention of `net`, under the checkpoint's names."""
    places = [(index, attn) for index, attn in enumerate(attentions(net)) if attn.is_cross_attention]

    def make() -> IdentityLayers:
        return IdentityLayers(
            context_width=net.config["cross_attention_dim"],
            widths=[attn.inner_dim for _, attn in places],
            heads=[attn.heads for _, attn in places],
            indices=[index for index, _ in places],
            names=list(names),
        )

    return draw(kit, make)


def draw_net(kit: Kit, cls: type[Net], folder: Path) -> Net:
    """A network of diffusers or transformers after the config.json in `folder`, in its real size for a full kit."""
    config = json.loads((folder / "config.json").read_text())
    if kit.size == "full":
        config |= SIZES[kind_of(folder.name)]
    kind: Any = cls
    if issubclass(cls, PreTrainedModel):
        return draw(kit, lambda: kind(kind.config_class(**config)))
    return draw(kit, lambda: kind.from_config(config))


def draw(kit: Kit, make: Any) -> Any:
    """What `make` makes, with random numbers everywhere, on the kit's device, in its precision."""
    with seeded(), torch.device(kit.device), default_dtype(kit.drawn):
        net = make()
    if kit.device != "meta":
        draw_zeros(net, torch.Generator(kit.device).manual_seed(0))
    return nn.Module.to(net, kit.dtype).eval().requires_grad_(False)


def draw_zeros(net: nn.Module, generator: torch.Generator) -> None:
    """Small numbers for what starts at zero."""
    for parameter in net.parameters():
        if not parameter.any():
            parameter.data.normal_(std=SMALL, generator=generator)


def state(kit: Kit, shapes: str, stem: str) -> Mapping[str, Any]:
    """The tensors of a checkpoint, for networks that are built from their shapes.

    Args:
        shapes: name of the key list in weights/shapes, whose tensors are drawn for a full kit.
        stem: of the tiny file below weights/tiny, which is read for a tiny one.
    """
    if kit.size == "tiny":
        return load_state(tiny_root() / stem, "cpu")[0]
    return {key: draw_tensor(kit, key, shape) for key, (shape, _) in read_shapes(shapes).items()}


def draw_tensor(kit: Kit, key: str, shape: list[int]) -> Tensor:
    """A layer's tensor by the custom of its name and shape: weights, norms around one, biases around zero."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64, device=kit.device)
    if kit.device == "meta":
        return torch.empty(shape, device="meta")
    generator = torch.Generator(kit.device).manual_seed(zlib.crc32(key.encode()))
    noise = torch.randn(shape, generator=generator, device=kit.device)
    if len(shape) == 1 and key.endswith(("weight", "running_var")):
        return 1 + SMALL * noise
    return noise * (GAIN / math.sqrt(math.prod(shape[1:])) if len(shape) in {2, 4} else SMALL)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Layers are made in this precision inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def seeded() -> Iterator[None]:
    """PyTorch's own initialisation draws the same numbers each time inside; the global state is as before after it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
