"""Tensors side by side in a few large pieces of memory.

torch rounds each piece of pinned memory up to a power of two. Tensor by tensor SDXL's UNet would take 31 % more than
its bytes; in pieces that are powers of two it takes less than 1 % more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SLAB = 2**28
"""Bytes of a piece; no tensor of SDXL is larger. A larger one gets a piece of its own."""

ALIGN = 64
"""Where a tensor begins is a multiple of this many bytes, which suits every dtype and a GPU's copies."""


@dataclass(frozen=True)
class Layout:
    """Where tensors lie.

    Args:
        places: per tensor its piece and where it begins there, in bytes. sizes: bytes of each piece, powers of two.
    """

    places: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]


def lay_out(sizes: Sequence[int], slab: int = SLAB) -> Layout:
    """Tensors of so many bytes each, the largest first, each in the first piece that has room for it."""
    used: list[int] = []
    places = [(0, 0)] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        size = -(-sizes[index] // ALIGN) * ALIGN
        piece = next((piece for piece, end in enumerate(used) if end + size <= slab), len(used))
        used += [0] * (piece == len(used))
        places[index] = piece, used[piece]
        used[piece] += size
    return Layout(tuple(places), tuple(power_of_two(size) for size in used))


def power_of_two(size: int) -> int:
    """The least power of two that is not below `size`."""
    return 1 << max(size - 1, 0).bit_length()


def pinned(size: int) -> Tensor:
    """So many bytes that a GPU copies from at full speed."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def copies(tensors: Sequence[Tensor], allocate: Callable[[int], Tensor] = pinned) -> list[Tensor]:
    """Equal tensors, with equal strides, in memory of `allocate`."""
    layout = lay_out([tensor.numel() * tensor.itemsize for tensor in tensors])
    pieces = [allocate(size) for size in layout.sizes]
    return [
        copy_into(pieces[piece], begin, tensor) for (piece, begin), tensor in zip(layout.places, tensors, strict=True)
    ]


def copy_into(piece: Tensor, begin: int, tensor: Tensor) -> Tensor:
    """The tensor's copy in these bytes."""
    dense = torch.empty_like(tensor, device="meta")  # what torch would lay out: strides without gaps
    flat = piece[begin : begin + tensor.numel() * tensor.itemsize].view(tensor.dtype)
    return flat.as_strided(dense.shape, dense.stride()).copy_(tensor)
