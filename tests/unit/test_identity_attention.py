"""How identity attention joins text attention, against the formulas as written (pulid.md §A10) in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipelines.sdxl.attention import (
    EXTREME_STYLE,
    FIDELITY,
    PLAIN,
    Identity,
    IdentityAttention,
    IdentityMode,
    join_identity,
)

ROWS, HEADS, LENGTH, DIM, TOKENS, WIDTH = 2, 4, 1024, 16, 10, 32
MODES = [PLAIN, FIDELITY, EXTREME_STYLE]


def draw(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def identity_of(mode: IdentityMode, dtype: torch.dtype, masks: dict[int, Tensor] | None = None) -> Identity:
    layer = IdentityAttention(WIDTH, HEADS * DIM, ("key", "value")).to(dtype)
    for seed, projection in enumerate(layer.children()):
        projection.weight.data = draw(HEADS * DIM, WIDTH, seed=seed, dtype=dtype) / 4
    with torch.no_grad():
        kv = layer.project(draw(ROWS, TOKENS, WIDTH, seed=2, dtype=dtype), HEADS, mode)
    return Identity([kv], torch.tensor([0.8, 0.5], dtype=dtype).view(2, 1, 1, 1), mode, masks or {})


def as_written(query: Tensor, text: Tensor, identity: Identity) -> Tensor:
    kv = identity.layers[0]
    q, t, keys, values, scale = (x.double() for x in (query, text, kv.keys, kv.values, identity.scale))
    face = functional.scaled_dot_product_attention(q, keys, values)
    parallel = (t * face).sum(2, keepdim=True) / (t * t).sum(2, keepdim=True) * t
    mass = (q @ keys.transpose(-2, -1)).softmax(-1)[..., :5].sum(-1, keepdim=True).mean(1, keepdim=True)
    share = {"none": 0.0, "orthogonal": 1.0, "soft": 1 - mass}[identity.mode.projection]
    return t + scale * (face - share * parallel)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.projection)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("bfloat16", 8e-3)])
@pytest.mark.parametrize("size", [1.0, 30.0], ids=["ordinary", "sums beyond half precision"])
def test_joining_is_as_exact_as_its_precision(mode: IdentityMode, dtype: str, tolerance: float, size: float) -> None:
    kind = getattr(torch, dtype)
    query, text = (draw(ROWS, HEADS, LENGTH, DIM, seed=seed, dtype=kind) * by for seed, by in ((5, 0.3), (6, size)))
    identity = identity_of(mode, kind)
    expected = as_written(query, text, identity)
    joined = join_identity(query, text.clone(), identity, 0)
    assert joined.dtype == kind
    assert (joined.double() - expected).abs().max() <= tolerance * expected.abs().max()
    assert (joined - text).abs().max() > 0.01, "the identity must have been added"


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.projection)
def test_outside_the_mask_the_text_stands_alone(mode: IdentityMode) -> None:
    query, text = (draw(ROWS, HEADS, LENGTH, DIM, seed=seed, dtype=torch.float32) for seed in (5, 6))
    mask = torch.zeros(1, 1, LENGTH, 1)
    mask[:, :, : LENGTH // 2] = 1
    joined = join_identity(query, text.clone(), identity_of(mode, torch.float32, {LENGTH: mask}), 0)
    assert torch.equal(joined[:, :, LENGTH // 2 :], text[:, :, LENGTH // 2 :])
    assert (joined - text)[:, :, : LENGTH // 2].abs().max() > 0.01


def test_a_mask_of_another_size_is_an_error_and_not_the_whole_picture() -> None:
    query, text = (draw(ROWS, HEADS, LENGTH, DIM, seed=seed, dtype=torch.float32) for seed in (5, 6))
    identity = identity_of(PLAIN, torch.float32, {LENGTH // 4: torch.ones(1, 1, LENGTH // 4, 1)})
    with pytest.raises(KeyError):
        join_identity(query, text, identity, 0)
