"""Attention of the SDXL UNet and ControlNets: text and identity keys and values are projected once per request.

Everything constant over the denoising steps reaches the cross attentions as a `Context`, which travels through
diffusers' forward in place of ``encoder_hidden_states``: an argument, never state left on a shared network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from pipelines.errors import LoadError
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
    """One layer's keys and values, each (B, heads, N, head_dim)."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Identity:
    """What a batch attends to beside its text.

    Args:
        layers: one KeysValues per cross attention, in the order of `cross_attentions`.
        scale: (B, 1, 1, 1) in the network's dtype.
        masks: scale times face mask by number of queries, (1 or B, 1, L, 1); empty: everywhere. Projection none only.
    """

    layers: Sequence[KeysValues]
    scale: Tensor
    mode: IdentityMode
    masks: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """Everything the cross attentions of one network need for one batch."""

    text: Sequence[KeysValues]
    identity: Identity | None = None


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

    def project(self, tokens: Tensor, heads: int, pads: int) -> KeysValues:
        """(B, N, context_width) -> keys and values of N + pads tokens; zero tokens project to zero rows."""
        keys, values = (
            functional.pad(split_heads(self.get_submodule(name)(tokens), heads), (0, 0, 0, pads)) for name in self.names
        )
        return KeysValues(keys, values)


def join_identity(query: Tensor, text: Tensor, identity: Identity, layer: int) -> Tensor:
    """Text attention (B, H, L, D) with the identity's added, as `identity.mode` says. Reductions run in float32."""
    kv = identity.layers[layer]
    face = functional.scaled_dot_product_attention(query, kv.keys, kv.values)
    if identity.mode.projection == "none":
        weight = identity.masks.get(query.shape[2], identity.scale)
        return torch.addcmul(text, face, weight)
    t, f, scale = text.float(), face.float(), identity.scale.float()
    parallel = (t * f).sum(2, keepdim=True) / (t * t).sum(2, keepdim=True)  # (B, H, 1, D): per channel, over positions
    added = torch.addcmul(t, f, scale)
    if identity.mode.projection == "orthogonal":
        return torch.addcmul(added, t, -scale * parallel).to(text.dtype)
    keep = first_token_mass(query, kv).float() - 1.0
    return torch.addcmul(added, t * parallel, scale * keep).to(text.dtype)


def first_token_mass(query: Tensor, kv: KeysValues) -> Tensor:
    """(B, 1, L, 1): softmax mass, without the usual 1/sqrt(d), on the first five tokens, averaged over the heads.

    Written as an attention over indicator values, so that the (L, N) probabilities are never stored.
    """
    indicator = torch.zeros_like(kv.values)
    indicator[:, :, :FIRST_TOKENS] = 1
    mass = functional.scaled_dot_product_attention(query, kv.keys, indicator, scale=1.0)
    return mass[..., :1].mean(1, keepdim=True)


class SelfAttention:
    """attn1 of a diffusers block: one fused projection when there is one, no mask, no dropout."""

    def __call__(self, attn: Attention, hidden_states: Tensor, **_: object) -> Tensor:
        if attn.fused_projections:
            q, k, v = (split_heads(x, attn.heads) for x in attn.to_qkv(hidden_states).chunk(3, dim=-1))
        else:
            q, k, v = (split_heads(to(hidden_states), attn.heads) for to in (attn.to_q, attn.to_k, attn.to_v))
        return attn.to_out[0](merge_heads(functional.scaled_dot_product_attention(q, k, v)))


class CrossAttention:
    """attn2 of a diffusers block, reading its keys and values from the request's `Context`."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Context, **_: object) -> Tensor:
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        kv = encoder_hidden_states.text[self.layer]
        out = functional.scaled_dot_product_attention(query, kv.keys, kv.values)
        if encoder_hidden_states.identity is not None:
            out = join_identity(query, out, encoder_hidden_states.identity, self.layer)
        return attn.to_out[0](merge_heads(out))


def install_attention(net: nn.Module, fuse: bool = True) -> None:
    """Give a diffusers UNet or ControlNet our processors, once, at load.

    Args:
        fuse: replace the three projections of every self attention by one; not possible under unfused LoRA layers.
    """
    for layer, attn in enumerate(cross_attentions(net)):
        attn.set_processor(CrossAttention(layer))  # pyright: ignore[reportArgumentType]
    for attn in attentions(net):
        if not attn.is_cross_attention:
            if fuse:
                fuse_projections(attn)
            attn.set_processor(SelfAttention())  # pyright: ignore[reportArgumentType]


def fuse_projections(attn: Attention) -> None:
    """One matrix for q, k and v; unlike diffusers' method it drops the three originals instead of keeping both."""
    attn.fuse_projections()
    del attn.to_q, attn.to_k, attn.to_v
    attn.fused_projections = True


def attentions(net: nn.Module) -> list[Attention]:
    """Every attention, in the order of diffusers' `attn_processors`: down, up, then mid."""
    names = [name.removesuffix(".processor") for name in net.attn_processors]  # pyright: ignore[reportGeneralTypeIssues]
    return [net.get_submodule(name) for name in names]  # pyright: ignore[reportReturnType]


def cross_attentions(net: nn.Module) -> list[Attention]:
    """The cross attentions, in the same order; checkpoints number them by their place among all attentions."""
    return [attn for attn in attentions(net) if attn.is_cross_attention]


def text_keys_values(net: nn.Module, tokens: Tensor) -> list[KeysValues]:
    """Project text or face tokens (B, N, context_width) through every cross attention of `net`."""
    return [
        KeysValues(split_heads(attn.to_k(tokens), attn.heads), split_heads(attn.to_v(tokens), attn.heads))
        for attn in cross_attentions(net)
    ]


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

    def forward(self, tokens: Tensor, pads: int) -> list[KeysValues]:
        """Identity tokens (B, N, context_width) -> keys and values of N + pads tokens for every layer."""
        tokens = tokens.to(self.dtype)
        layers = zip(self.children(), self.heads, strict=True)
        return [layer.project(tokens, heads, pads) for layer, heads in layers]  # pyright: ignore[reportCallIssue]
