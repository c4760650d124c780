"""SDXL's two text encoders, the ordinary way: 77 tokens, truncated, penultimate layers (arXiv:2307.01952 §2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


@dataclass(frozen=True)
class Prompt:
    """Encoded text.

    Args:
        tokens: (B, N, 2048), both encoders' penultimate hidden states side by side.
        pooled: (B, 1280), the second encoder's projected text embedding.
    """

    tokens: Tensor
    pooled: Tensor


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(B, 77) ids, padded and truncated."""
    batch = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    return batch.input_ids


def encode_texts(
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
    encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection],
    texts: list[str],
) -> Prompt:
    """Encode a batch of texts; an empty text is encoded like any other, not zeroed (pulid.md §A9)."""
    return encode_ids(encoders, [token_ids(tokenizer, texts) for tokenizer in tokenizers])


def encode_ids(encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection], ids: Sequence[Tensor]) -> Prompt:
    """Run each encoder on its own ids (B, N), start and end tokens included."""
    outs = [
        encoder(rows.to(encoder.device), output_hidden_states=True) for encoder, rows in zip(encoders, ids, strict=True)
    ]
    return Prompt(torch.cat([out.hidden_states[-2] for out in outs], dim=-1), outs[1][0])


def stack_prompts(prompts: list[Prompt]) -> Prompt:
    """Prompts of equal length along the batch."""
    return Prompt(torch.cat([p.tokens for p in prompts]), torch.cat([p.pooled for p in prompts]))
