"""A1111 weights and long prompts, as upstream's encoder treats them (instantid.md §A10)."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from pipelines.instantid.prompt_weights import BREAK, END, encode_weighted, pad_equal, parse_weights, tokenise
from pipelines.profile import Profile
from pipelines.sdxl.load import SDXLParts, load_parts

ROOT = Path(__file__).parents[2]
CASES = json.loads((ROOT / "tests/golden/instantid/index.json").read_text())["extras"]["parse_prompt_attention"]


@pytest.fixture(scope="module")
def parts() -> SDXLParts:
    return load_parts(ROOT / "weights/tiny/instantid/base", Profile(device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def tokenizer(parts: SDXLParts) -> CLIPTokenizer:
    return parts.tokenizer


@pytest.mark.parametrize(("prompt", "expected"), CASES, ids=[repr(case[0]) for case in CASES])
def test_the_parser_reads_what_upstream_reads(prompt: str, expected: list) -> None:
    assert [list(segment) for segment in parse_weights(prompt)] == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("a:1.2)", [("a:1.2)", 1.0)]),
        ("[a", [("a", 1 / 1.1)]),
        (r"a\b", [("ab", 1.0)]),
        (r"\\(a\)", [("\\", 1.0), ("a)", 1.1)]),
        ("BREAK", [("", 1.0), (BREAK, -1.0), ("", 1.0)]),
    ],
)
def test_odd_prompts_are_read_without_failing(prompt: str, expected: list) -> None:
    assert parse_weights(prompt) == expected


def test_brackets_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="brackets"):
        parse_weights("(a" * 200)
    assert parse_weights("(a)" * 5000) == [("a" * 5000, 1.1)]


def test_a_weight_beyond_float16_is_refused(tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(ValueError, match="weight"):
        tokenise(tokenizer, "(a:70000)")


def test_break_separates_and_is_no_word(tokenizer: CLIPTokenizer) -> None:
    assert tokenise(tokenizer, "a man BREAK smiling") == tokenise(tokenizer, "a man smiling")
    assert tokenise(tokenizer, "BREAK").ids == ()


def test_every_token_carries_the_weight_of_its_text(tokenizer: CLIPTokenizer) -> None:
    plain, weighted = tokenise(tokenizer, "a man smiling"), tokenise(tokenizer, "a (man:1.3) smiling")
    assert weighted.ids == plain.ids
    man = tokenise(tokenizer, "man").ids
    assert weighted.weights.count(1.3) == len(man)
    assert set(plain.weights) == {1.0}


def test_the_shorter_text_is_filled_with_end_tokens(tokenizer: CLIPTokenizer) -> None:
    long, short = pad_equal(tokenise(tokenizer, "a man smiling"), tokenise(tokenizer, "(a:2)"))
    assert len(long.ids) == len(short.ids)
    assert short.ids[-1] == END
    assert short.weights[-1] == 1.0


@pytest.mark.parametrize(("length", "rows"), [(0, 2), (1, 3), (74, 76), (75, 79), (76, 80), (150, 156)])
def test_chunks_hold_75_tokens_and_are_not_padded(parts: SDXLParts, length: int, rows: int) -> None:
    word = tokenise(parts.tokenizer, "a").ids
    assert len(word) == 1
    encoded = encode(parts, " ".join("a" * length))
    assert encoded.tokens.shape[1] == rows


def test_the_pooled_embedding_is_that_of_the_last_chunk(parts: SDXLParts) -> None:
    assert torch.equal(encode(parts, " ".join("a" * 75)).pooled, encode(parts, "").pooled)


def test_a_weight_moves_its_token_away_from_the_chunks_last_row(parts: SDXLParts) -> None:
    plain, heavy = encode(parts, "a").tokens[0], encode(parts, "(a:1.2)").tokens[0]
    weight = torch.tensor(1.2, dtype=torch.float16).float()
    assert torch.allclose(heavy[1], plain[2] + (plain[1] - plain[2]) * weight, atol=1e-6)
    assert torch.equal(heavy[[0, 2]], plain[[0, 2]])


def encode(parts: SDXLParts, prompt: str):
    with torch.inference_mode():
        return encode_weighted((parts.text_encoder, parts.text_encoder_2), [tokenise(parts.tokenizer, prompt)])
