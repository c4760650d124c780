"""PuLID v1's IDEncoder: ArcFace and CLIP embeddings, five CLIP hidden states -> ten identity tokens (pulid.md §A7)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pipelines.checkpoint import assign_state, sizes_of

SCALES = 5


def mapping(widths: Sequence[int]) -> nn.Sequential:
    """Three linear layers of the four `widths`, with LayerNorm and LeakyReLU between them."""
    first, second, third, last = widths
    return nn.Sequential(
        nn.Linear(first, second),
        nn.LayerNorm(second),
        nn.LeakyReLU(),
        nn.Linear(second, third),
        nn.LayerNorm(third),
        nn.LeakyReLU(),
        nn.Linear(third, last),
    )


class IDEncoder(ModelMixin, ConfigMixin):
    """Five tokens from the embeddings (`body`), then one per hidden state (`mapping_i` + mean of `mapping_patch_i`)."""

    @register_to_config
    def __init__(self, token_width: int, body_widths: Sequence[int], scale_widths: Sequence[int]) -> None:
        super().__init__()
        self.cond_width, self.hidden_width = body_widths[0], scale_widths[0]
        self.body = mapping(body_widths)
        for i in range(SCALES):
            self.add_module(f"mapping_{i}", mapping(scale_widths))
            self.add_module(f"mapping_patch_{i}", mapping(scale_widths))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], file: Path) -> "IDEncoder":
        """Built from the checkpoint's shapes, in float32. Raises LoadError when the keys do not fit."""

        def widths(name: str) -> list[int]:
            first, second, third = (sizes_of(state, file, f"{name}.{i}.weight", 2) for i in (0, 3, 6))
            return [first[1], first[0], second[0], third[0]]

        body, scale = widths("body"), widths("mapping_0")
        with init_empty_weights():
            self = cls(token_width=scale[-1], body_widths=body, scale_widths=scale)
        assign_state(self, {k: v.float() for k, v in state.items()}, file, prefix="id_adapter.")
        return self.eval()

    def forward(self, cond: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """cond (B, cond_width), five hidden states (B, 1 + patches, hidden_width) -> tokens (B, 10, token_width)."""
        tokens = [self.body(cond).unflatten(-1, (-1, self.config["token_width"]))]
        for i, state in enumerate(hidden):
            whole = self.get_submodule(f"mapping_{i}")(state[:, :1])
            parts = self.get_submodule(f"mapping_patch_{i}")(state[:, 1:])
            tokens.append(whole + parts.mean(1, keepdim=True))
        return torch.cat(tokens, 1)

    def unconditional(self, patches: int = 1) -> Tensor:
        """Tokens (1, 10, token_width) of no person: all inputs zero; not zero themselves because of the biases.

        The mean over equal patch tokens is the same for any number of patches.
        """
        cond = torch.zeros(1, self.cond_width, device=self.device, dtype=self.dtype)
        state = torch.zeros(1, 1 + patches, self.hidden_width, device=self.device, dtype=self.dtype)
        return self(cond, [state] * SCALES)
