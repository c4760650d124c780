"""The Resampler that turns an ArcFace embedding into face tokens (instantid.md §A11; upstream ip_adapter/resampler.py).

A Perceiver resampler (arXiv:2204.14198 §3.1): learned queries attend to the embedding and to themselves.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from pipelines.checkpoint import assign_state, sizes_of
from pipelines.sdxl.attention import merge_heads, split_heads

HEAD_WIDTH = 64
"""Width of one head, fixed upstream; the number of heads follows from the checkpoint."""


class ResamplerAttention(nn.Module):
    """Queries (B, Q, dim) attend to the embedding (B, N, dim) and to themselves."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * HEAD_WIDTH, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * HEAD_WIDTH, bias=False)
        self.to_out = nn.Linear(heads * HEAD_WIDTH, dim, bias=False)

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        x, queries = self.norm1(x), self.norm2(queries)
        q = split_heads(self.to_q(queries), self.heads)
        k, v = (split_heads(y, self.heads) for y in self.to_kv(torch.cat([x, queries], 1)).chunk(2, -1))
        return self.to_out(merge_heads(functional.scaled_dot_product_attention(q, k, v)))


def feed_forward(dim: int, width: int) -> nn.Sequential:
    """LayerNorm, widen, GELU, narrow."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, width, bias=False), nn.GELU(), nn.Linear(width, dim, bias=False)
    )


class Resampler(ModelMixin, ConfigMixin):
    """ArcFace embeddings to face tokens; key names are the checkpoint's ``image_proj``.

    Args:
        dim: width inside. depth: number of layers. heads: of 64 channels each. queries: number of face tokens.
        embedding_dim: 512, ArcFace. output_dim: width of the UNet's context. inner: width of the feed-forward.
    """

    @register_to_config
    def __init__(  # noqa: PLR0913  the checkpoint's six sizes
        self, dim: int, depth: int, heads: int, queries: int, embedding_dim: int, output_dim: int, inner: int
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, queries, dim))
        self.proj_in = nn.Linear(embedding_dim, dim)
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([ResamplerAttention(dim, heads), feed_forward(dim, inner)]) for _ in range(depth)
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], file: Path) -> Self:
        """A float32 Resampler of the shapes in `state`. Raises LoadError naming `file` when a key does not fit."""
        _, queries, dim = sizes_of(state, file, "latents", 3)
        output_dim, _ = sizes_of(state, file, "proj_out.weight", 2)
        sizes = {
            "dim": dim,
            "queries": queries,
            "depth": len({key.split(".")[1] for key in state if key.startswith("layers.")}),
            "heads": sizes_of(state, file, "layers.0.0.to_q.weight", 2)[0] // HEAD_WIDTH,
            "inner": sizes_of(state, file, "layers.0.1.1.weight", 2)[0],
            "embedding_dim": sizes_of(state, file, "proj_in.weight", 2)[1],
            "output_dim": output_dim,
        }
        with torch.device("meta"):
            net = cls(**sizes)
        assign_state(net, {key: tensor.float() for key, tensor in state.items()}, file, prefix="image_proj.")
        return net.eval()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, N, embedding_dim) -> face tokens (B, queries, output_dim)."""
        x = self.proj_in(embeddings)
        queries = self.latents.expand(len(x), -1, -1)
        for attention, widen in self.layers:  # pyright: ignore[reportGeneralTypeIssues]
            queries = queries + attention(x, queries)
            queries = queries + widen(queries)
        return self.norm_out(self.proj_out(queries))
