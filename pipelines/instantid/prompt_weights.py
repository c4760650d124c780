"""Long prompts with A1111 weights, as upstream's LongPromptWeight encodes them (instantid.md §A10).

Chunks of 75 tokens, no padding to 77; the shorter of prompt and negative prompt is filled with end tokens, so that the
negative prompt's length counts even without guidance.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.sdxl.text import Prompt, encode_ids

BEGIN, END = 49406, 49407
"""CLIP's start and end tokens, hard-coded upstream."""

CHUNK = 75

PIECE = re.compile(
    r"\\(?P<escaped>[()\[\]\\]?)|(?P<open>[(\[])|:(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\)|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|:)"
)
BREAK = "BREAK"
BREAKS = re.compile(r"\s*\bBREAK\b\s*")
OPENS = {")": "(", "]": "["}
FACTORS = {"(": 1.1, "[": 1 / 1.1}

MAX_DEPTH = 100
"""Of open brackets; 1.1**117 is already beyond the float16 that weights pass through."""

Segment = tuple[str, float]


@dataclass(frozen=True)
class Tokens:
    """A tokenised text: ids without start and end tokens, and one weight each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def parse_weights(prompt: str) -> list[Segment]:
    r"""A1111's grammar: ``(x)`` ×1.1, ``[x]`` ÷1.1, ``(x:w)`` ×w, ``\(`` literal; open brackets reach to the end.

    Returns:
        (text, weight) with neighbours of equal weight joined; the word BREAK stands alone, with upstream's weight −1.

    Raises:
        ValueError: more than MAX_DEPTH brackets are open.
    """
    segments: list[Segment] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for piece in PIECE.finditer(prompt):
        kind, text = piece.lastgroup, piece[0]
        bracket = OPENS.get(text[-1], "") if kind in ("weight", "close") else ""
        if kind == "open":
            opened[text].append(len(segments))
        elif opened.get(bracket):
            factor = float(piece["weight"]) if kind == "weight" else FACTORS[bracket]
            emphasise(segments, opened[bracket].pop(), factor)
        elif kind == "escaped":
            segments.append((piece["escaped"], 1.0))
        else:
            segments += split_breaks(text)
        if len(opened["("]) + len(opened["["]) > MAX_DEPTH:
            raise ValueError(f"More than {MAX_DEPTH} brackets are open. Close them, or write \\( for a plain bracket.")
    for bracket, starts in opened.items():
        for start in starts:
            emphasise(segments, start, FACTORS[bracket])
    return join_equal(segments) or [("", 1.0)]


def emphasise(segments: list[Segment], start: int, factor: float) -> None:
    """Multiply the weights from `start` on."""
    segments[start:] = [(text, weight * factor) for text, weight in segments[start:]]


def split_breaks(text: str) -> list[Segment]:
    """Plain text, with every BREAK as a segment of its own."""
    first, *rest = BREAKS.split(text)
    return [(first, 1.0), *(segment for part in rest for segment in ((BREAK, -1.0), (part, 1.0)))]


def join_equal(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of equal weight become one segment."""
    groups = groupby(segments, key=lambda segment: (segment[0] == BREAK, segment[1]))
    return [("".join(text for text, _ in group), weight) for (_, weight), group in groups]


def tokenise(tokenizer: CLIPTokenizer, prompt: str) -> Tokens:
    """Tokens and weights of a prompt of any length.

    BREAK only separates: upstream feeds the literal word with weight −1, which nobody means.

    Raises:
        ValueError: too many open brackets, or a weight that is not finite in float16.
    """
    segments = [segment for segment in parse_weights(prompt) if segment[0] != BREAK]
    if any(abs(weight) > torch.finfo(torch.float16).max for _, weight in segments):
        raise ValueError("A weight in the prompt is too large. Weights between 0.1 and 2 are useful.")
    texts = [text for text, _ in segments]
    ids = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids
    pairs = [(token, weight) for tokens, (_, weight) in zip(ids, segments, strict=True) for token in tokens]
    return Tokens(tuple(token for token, _ in pairs), tuple(weight for _, weight in pairs))


def pad_equal(*texts: Tokens) -> list[Tokens]:
    """Fill the shorter texts with end tokens of weight 1."""
    longest = max(len(text.ids) for text in texts)
    missing = [longest - len(text.ids) for text in texts]
    return [Tokens(t.ids + (END,) * n, t.weights + (1.0,) * n) for t, n in zip(texts, missing, strict=True)]


def encode_weighted(encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection], texts: Sequence[Tokens]) -> Prompt:
    """Encode texts of equal length, chunk by chunk: tokens (B, N + 2 per chunk, 2048), pooled (B, 1280) of the last.

    A length that is a multiple of 75 ends with a chunk of nothing but start and end, as upstream.
    """
    device = encoders[0].device
    ids = torch.tensor([text.ids for text in texts], dtype=torch.int64, device=device)
    weights = torch.tensor([text.weights for text in texts], dtype=torch.float16, device=device)
    starts = range(0, ids.shape[1] + 1, CHUNK)
    chunks = [encode_chunk(encoders, ids[:, i : i + CHUNK], weights[:, i : i + CHUNK]) for i in starts]
    return Prompt(torch.cat([chunk.tokens for chunk in chunks], 1), chunks[-1].pooled)


def encode_chunk(encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection], ids: Tensor, weights: Tensor) -> Prompt:
    """One chunk (B, up to 75): a weight moves its token away from the chunk's last row, or towards it."""
    ids = functional.pad(functional.pad(ids, (1, 0), value=BEGIN), (0, 1), value=END)
    weights = functional.pad(weights, (1, 1), value=1.0)[..., None]
    prompt = encode_ids(encoders, (ids, ids))
    last = prompt.tokens[:, -1:]
    weighted = last + (prompt.tokens - last) * weights.to(last.dtype)
    return Prompt(torch.where(weights == 1, prompt.tokens, weighted), prompt.pooled)
