"""EVA02-CLIP-L-14-336's visual tower (arXiv:2303.15389), with the checkpoint's own key names (pulid.md §A6)."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from pipelines.checkpoint import assign_state, sizes_of
from pipelines.sdxl.attention import merge_heads, split_heads

HIDDEN_BLOCKS = (4, 8, 12, 16, 20)
"""PuLID reads the inputs of these blocks."""

HEAD_WIDTH, TRAINED_GRID = 64, 16
"""Of EVA02-CLIP-L; tensors do not tell them, eva_clip's model config beside the checkpoint may (`read_config`)."""

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI CLIP's normalisation."""


class Attention(nn.Module):
    """Self-attention with a bias on queries and values only, rotary positions on patches, and an inner LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.inner_attn_ln = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.q_proj(x) + self.q_bias, self.k_proj(x), self.v_proj(x) + self.v_bias
        q, k = (rotate_patches(split_heads(t, self.heads), cos, sin) for t in (q, k))
        out = functional.scaled_dot_product_attention(q, k, split_heads(v, self.heads))
        return self.proj(self.inner_attn_ln(merge_heads(out)))


class SwiGLU(nn.Module):
    """Gated MLP with a LayerNorm before its last projection."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(functional.silu(self.w1(x)) * self.w2(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), SwiGLU(width, hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Image -> patch tokens."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class EVAVisionTower(ModelMixin, ConfigMixin):
    """The tower; `from_state` builds it from a checkpoint's shapes."""

    @register_to_config
    def __init__(  # noqa: PLR0913  the checkpoint's shape, as diffusers' configs record it
        self,
        width: int,
        hidden: int,
        depth: int,
        grid: int,
        patch: int,
        out: int,
        head_width: int = HEAD_WIDTH,
        trained_grid: int = TRAINED_GRID,
    ) -> None:
        super().__init__()
        self.image_size = grid * patch
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid + 1, width))
        self.blocks = nn.ModuleList(Block(width, hidden, width // head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, out)
        angles = rotary_angles(grid, head_width, trained_grid)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], file: Path) -> "EVAVisionTower":
        """From a CLIP checkpoint's tensors (`visual.*`; text tower and rotary tables are ignored), in float32.

        Raises LoadError when the keys do not fit.
        """
        visual = {k.removeprefix("visual."): v.float() for k, v in state.items() if k.startswith("visual.")}
        visual = {k: v for k, v in visual.items() if "rope." not in k}  # half precision in some files: computed here
        width, _, patch, _ = sizes_of(visual, file, "patch_embed.proj.weight", 4)
        sizes = {
            "width": width,
            "hidden": sizes_of(visual, file, "blocks.0.mlp.w1.weight", 2)[0],
            "depth": len({k.split(".")[1] for k in visual if k.startswith("blocks.")}),
            "grid": round((sizes_of(visual, file, "pos_embed", 3)[1] - 1) ** 0.5),
            "patch": patch,
            "out": sizes_of(visual, file, "head.weight", 2)[0],
        }
        with init_empty_weights():
            self = cls(**sizes, **read_config(file.parent))
        assign_state(self, visual, file, prefix="visual.")
        return self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Normalised images (B, 3, S, S) -> embedding (B, out), not unit length; states (B, 1 + patches, width) × 5."""
        x = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        hidden = []
        for i, block in enumerate(self.blocks):
            if i in HIDDEN_BLOCKS:
                hidden.append(x)
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x)[:, 0]), hidden


def read_config(folder: Path) -> dict[str, int]:
    """Head width and pre-training grid from an eva_clip model config beside the checkpoint; {} when there is none."""
    for file in sorted(folder.glob("*.json")):
        vision = json.loads(file.read_text()).get("vision_cfg", {})
        return {"head_width": vision["head_width"], "trained_grid": vision["pt_hw_seq_len"]}
    return {}


def rotary_angles(grid: int, head_width: int, trained_grid: int) -> Tensor:
    """(grid², head_width) angles of 2-D rotary positions: rows in the first half of the channels, then columns.

    Positions are stretched to the grid of the pre-training, so that a finer grid means intermediate positions.
    """
    half = head_width // 2
    frequencies = 10000 ** -(torch.arange(0, half, 2).float() / half)
    line = (torch.arange(grid) / grid * trained_grid)[:, None] * frequencies
    line = line.repeat_interleave(2, -1)
    rows, columns = line[:, None].expand(grid, grid, half), line[None].expand(grid, grid, half)
    return torch.cat([rows, columns], -1).flatten(0, 1)


def rotate_patches(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved channel pairs of every token (B, H, N, D) but the class token."""
    first, patches = x[:, :, :1], x[:, :, 1:]
    even, odd = patches.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], -1).flatten(-2)
    return torch.cat([first, patches * cos + turned * sin], 2)
