"""Tensors side by side in large pieces: equal, apart from each other, and hardly any memory between them."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines.sdxl.slabs import ALIGN, copies, lay_out, power_of_two
from weights.store import read_shapes


def zeros(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.uint8)


@pytest.mark.parametrize("net", ["sdxl_unet", "sdxl_controlnet", "sdxl_text_encoder_2", "eva02_clip_l_336"])
def test_the_real_networks_waste_next_to_nothing(net: str) -> None:
    sizes = [2 * math.prod(shape) for shape, _ in read_shapes(net).values()]
    alone, together = sum(map(power_of_two, sizes)) / sum(sizes), sum(lay_out(sizes).sizes) / sum(sizes)
    print(f"{net}: {together:.3f} of its bytes, tensor by tensor {alone:.3f}")
    assert together <= 1.07 < 1.09 < alone


@given(st.lists(st.integers(0, 5000), max_size=40), st.sampled_from([512, 4096]))
def test_no_two_tensors_overlap(sizes: list[int], slab: int) -> None:
    layout = lay_out(sizes, slab)
    for piece, room in enumerate(layout.sizes):
        inside = [(begin, begin + size) for (p, begin), size in zip(layout.places, sizes, strict=True) if p == piece]
        inside = sorted(one for one in inside if one[0] < one[1])
        assert all(begin % ALIGN == 0 for begin, _ in inside)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(inside))
        assert all(end <= room for _, end in inside)
        assert room == power_of_two(room)
        assert room <= slab or len(inside) == 1


def test_copies_are_equal_and_laid_out_as_before() -> None:
    pictures = torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last)
    given_ = [torch.randn(7, 5).half(), pictures, torch.tensor(3), torch.randn(4, 9)[:, ::2], torch.empty(0, 3)]
    made = copies(given_, zeros)
    for one, copy in zip(given_, made, strict=True):
        assert torch.equal(one, copy)
        assert one.dtype == copy.dtype
    assert made[1].stride() == pictures.stride()
    assert len({copy.untyped_storage().data_ptr() for copy in made}) == 1
    made[0].zero_()
    assert torch.equal(made[1], pictures), "apart from each other"
