"""Attention of the SDXL UNet and ControlNets: text and identity keys and values are projected once per request.

Everything constant over the denoising steps reaches the cross attentions as a `Context`, which travels through
diffusers' forward in place of ``encoder_hidden_states``: an argument, never state left on a shared network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from pipelines.errors import LoadError
from pipelines.sdxl.device import weight_of
from pipelines.sdxl.load import assign_state


@dataclass(frozen=True)
class IdentityMode:
    """How identity attention I joins text attention T.

    Args:
        pads: all-zero tokens appended to the identity; without biases they are zero keys and values.
        projection: ``none`` T + s·I (IP-Adapter, InstantID); ``orthogonal`` T + s·(I − P), P the part of I parallel to
            T over the positions; ``soft`` T + s·(I − (1 − m)·P), m the attention mass on the first five tokens
            (PuLID, arXiv:2404.16022 and attention_processor.py ORTHO / ORTHO_v2, pulid.md §A10).
    """

    pads: int
    projection: Literal["none", "orthogonal", "soft"]


PLAIN = IdentityMode(0, "none")
FIDELITY = IdentityMode(8, "soft")
EXTREME_STYLE = IdentityMode(16, "orthogonal")

FIRST_TOKENS = 5
"""The main photo's body tokens, whose attention mass `soft` measures."""


@dataclass(frozen=True)
class KeysValues:
    """One layer's keys and values, each (B, heads, N, head_dim).

    Args:
        rest: for `soft` alone, values that are 0 for the first five tokens and 1 for all others.
    """

    keys: Tensor
    values: Tensor
    rest: Tensor | None = None


@dataclass(frozen=True)
class Identity:
    """What a batch attends to beside its text.

    Args:
        layers: one KeysValues per cross attention, in the order of `cross_attentions`.
        scale: (B, 1, 1, 1) in the network's dtype.
        masks: scale times face mask by number of queries, (1 or B, 1, L, 1); empty: everywhere.
    """

    layers: Sequence[KeysValues]
    scale: Tensor
    mode: IdentityMode
    masks: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """Everything the cross attentions of one network need for one batch.

    Args:
        mask: added to the text's logits, (1, 1, 1, N): 0, and −inf for what only fills up; None: all N count.
    """

    text: Sequence[KeysValues]
    identity: Identity | None = None
    mask: Tensor | None = None


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * head_dim) -> (B, heads, N, head_dim)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, head_dim) -> (B, N, heads * head_dim)."""
    return x.transpose(1, 2).flatten(2)


class IdentityAttention(nn.Module):
    """One layer's identity projections, under the checkpoint's own names, and how its attention joins the text's."""

    def __init__(self, context_width: int, width: int, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        for name in self.names:
            self.add_module(name, nn.Linear(context_width, width, bias=False))

    def project(self, tokens: Tensor, heads: int, mode: IdentityMode) -> KeysValues:
        """(B, N, context_width) -> keys and values of N + pads tokens; zero tokens project to zero rows."""
        keys, values = (
            functional.pad(split_heads(self.get_submodule(name)(tokens), heads), (0, 0, 0, mode.pads))
            for name in self.names
        )
        return KeysValues(keys, values, beyond_first(values) if mode.projection == "soft" else None)


def beyond_first(values: Tensor) -> Tensor:
    """0 for the first five tokens, 1 for all others, of the shape of `values` (B, heads, N, head_dim)."""
    indicator = torch.ones_like(values)
    indicator[:, :, :FIRST_TOKENS] = 0
    return indicator


def join_identity(query: Tensor, text: Tensor, identity: Identity, layer: int) -> Tensor:
    """Text attention (B, H, L, D) with the identity's added, as `identity.mode` says; `text` is overwritten.

    Everything between the attentions is computed in float32 (pulid.md §A10); adding in place brings the sum back to
    the text's dtype without a cast of its own.
    """
    kv = identity.layers[layer]
    added = functional.scaled_dot_product_attention(query, kv.keys, kv.values)
    if identity.mode.projection != "none":
        added = without_parallel(query, text, added, kv)
    weight = identity.masks[query.shape[2]] if identity.masks else identity.scale
    return text.addcmul_(added, weight)


def without_parallel(query: Tensor, text: Tensor, face: Tensor, kv: KeysValues) -> Tensor:
    """I − P, or I − (1 − m)·P when `kv.rest` is there: float32, from text and face attention (B, H, L, D)."""
    unit = text / torch.linalg.vector_norm(text, dim=2, keepdim=True, dtype=torch.float32)
    along = (unit * face).sum(2, keepdim=True)  # (B, H, 1, D): per channel, over positions
    if kv.rest is None:
        return torch.addcmul(face, unit, along, value=-1)
    return torch.addcmul(face, unit * along, rest_mass(query, kv.keys, kv.rest), value=-1)


def rest_mass(query: Tensor, keys: Tensor, rest: Tensor) -> Tensor:
    """1 − m, (B, 1, L, 1) float32: softmax mass on `rest`, without the usual 1/sqrt(d), averaged over the heads.

    Written as an attention over indicator values, so that the (L, N) probabilities are never stored.
    """
    mass = functional.scaled_dot_product_attention(query, keys, rest, scale=1.0)
    return mass[..., :1].mean(1, keepdim=True, dtype=torch.float32)


class SelfAttention(nn.Module):
    """attn1 of a diffusers block, in the place of diffusers' own: one fused projection, no mask, no dropout."""

    is_cross_attention = False

    def __init__(self, attn: Attention) -> None:
        super().__init__()
        attn.fuse_projections()
        self.heads = attn.heads
        self.to_qkv, self.to_out = attn.to_qkv, attn.to_out[0]

    def forward(self, hidden_states: Tensor, **_: object) -> Tensor:
        qkv = self.to_qkv(hidden_states).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        return self.to_out(merge_heads(functional.scaled_dot_product_attention(q, k, v)))


class CrossAttention(nn.Module):
    """attn2 of a diffusers block, in the place of diffusers' own, reading keys and values from the request's `Context`.

    Args:
        layer: its number among the network's cross attentions.
    """

    is_cross_attention = True

    def __init__(self, attn: Attention, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.inner_dim = layer, attn.heads, attn.inner_dim
        self.to_q, self.to_k, self.to_v, self.to_out = attn.to_q, attn.to_k, attn.to_v, attn.to_out[0]

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Context, **_: object) -> Tensor:
        query = split_heads(self.to_q(hidden_states), self.heads)
        kv = encoder_hidden_states.text[self.layer]
        out = functional.scaled_dot_product_attention(query, kv.keys, kv.values, encoder_hidden_states.mask)
        if encoder_hidden_states.identity is not None:
            out = join_identity(query, out, encoder_hidden_states.identity, self.layer)
        return self.to_out(merge_heads(out))


def install_attention(net: nn.Module, fuse: bool = True) -> None:
    """Give a diffusers UNet or ControlNet our attention modules, once, at load.

    Modules, not processors: diffusers inspects a processor's signature in every call, a tenth of a step's host time.

    Args:
        fuse: replace the three projections of every self attention by one; not possible under unfused LoRA layers,
            where diffusers' own self attention stays.
    """
    places = [(name, module) for name, module in net.named_modules() if isinstance(module, Attention)]
    layers = count()
    for name, attn in places:
        if attn.is_cross_attention:
            net.set_submodule(name, CrossAttention(attn, next(layers)))
        elif fuse:
            net.set_submodule(name, SelfAttention(attn))


def attentions(net: nn.Module) -> list[Any]:
    """Every attention, diffusers' or ours, in the order of diffusers' `attn_processors`: down, up, then mid."""
    return [module for module in net.modules() if isinstance(module, (Attention, SelfAttention, CrossAttention))]


def cross_attentions(net: nn.Module) -> list[CrossAttention]:
    """The cross attentions, in the same order; checkpoints number them by their place among all attentions."""
    return [attn for attn in attentions(net) if attn.is_cross_attention]


def text_keys_values(net: nn.Module, tokens: Tensor) -> list[KeysValues]:
    """Project text or face tokens (B, N, context_width) through every cross attention of `net`, in its dtype."""
    tokens = tokens.to(weight_of(net).dtype)
    return [
        KeysValues(split_heads(attn.to_k(tokens), attn.heads), split_heads(attn.to_v(tokens), attn.heads))
        for attn in cross_attentions(net)
    ]


def fill_up(tokens: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Text tokens (B, N, width) filled up to a multiple, and the `Context.mask` that hides what was added.

    So that texts of nearly any length are of one kind, for which a step is recorded once.
    """
    missing = -tokens.shape[1] % multiple
    filled = functional.pad(tokens, (0, 0, 0, missing))
    mask = functional.pad(tokens.new_zeros(1, 1, 1, tokens.shape[1]), (0, missing), value=float("-inf"))
    return filled, mask


class IdentityLayers(ModelMixin, ConfigMixin):
    """The identity projections of all cross attentions: one registered component beside the UNet.

    Args:
        context_width: width of an identity token.
        widths: width of each cross attention, in the order of `cross_attentions`.
        heads: heads of each.
        indices: the checkpoint's number of each layer, its place among all attention processors.
        names: the checkpoint's names of key and value, e.g. ``("id_to_k", "id_to_v")``.
    """

    @register_to_config
    def __init__(
        self,
        context_width: int,
        widths: Sequence[int],
        heads: Sequence[int],
        indices: Sequence[int],
        names: Sequence[str],
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        for index, width in zip(indices, widths, strict=True):
            self.add_module(str(index), IdentityAttention(context_width, width, names))

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], unet: UNet2DConditionModel, names: Sequence[str], file: Path
    ) -> "IdentityLayers":
        """Layers of the shapes in `state` (``"{index}.{name}.weight"``), for this UNet, in its dtype.

        Raises LoadError when a key is missing or misshapen.
        """
        layers = [(i, attn) for i, attn in enumerate(attentions(unet)) if attn.is_cross_attention]
        first = state.get(f"{layers[0][0]}.{names[0]}.weight")
        if first is None:
            raise LoadError(f"{file} holds no {layers[0][0]}.{names[0]}.weight: it is not this model's identity layers")
        self = cls(
            context_width=first.shape[1],
            widths=[attn.inner_dim for _, attn in layers],
            heads=[attn.heads for _, attn in layers],
            indices=[i for i, _ in layers],
            names=list(names),
        )
        assign_state(self, {key: value.to(unet.dtype) for key, value in state.items()}, file)
        return self.eval()

    def forward(self, tokens: Tensor, mode: IdentityMode) -> list[KeysValues]:
        """Identity tokens (B, N, context_width) -> keys and values of N + pads tokens for every layer."""
        tokens = tokens.to(weight_of(self).dtype)
        layers = zip(self.children(), self.heads, strict=True)
        return [layer.project(tokens, heads, mode) for layer, heads in layers]  # pyright: ignore[reportCallIssue]
