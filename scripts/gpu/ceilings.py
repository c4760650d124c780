"""What this card can do at most: a large matrix product and a large copy, measured in the same run as everything."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from scripts.gpu.clock import Clock
from scripts.gpu.networks import Kit

SIDE, COPY_BYTES = {"full": 8192, "tiny": 128}, {"full": 4_300_000_000, "tiny": 1_000_000}
"""Of the square matrices; of the buffer that is read and written (performance.md §5)."""


@dataclass(frozen=True)
class Ceilings:
    """Operations per second of a matrix product by precision, and bytes per second, read and written."""

    flops: dict[str, float]
    bytes: float


def measure_ceilings(kit: Kit, clock: Clock) -> Ceilings:
    """Products of random matrices, for zeros multiply faster, and a copy from the device to itself."""
    side, size = SIDE[kit.size], COPY_BYTES[kit.size]
    flops = {}
    for dtype in (torch.float16, torch.bfloat16):
        a, b = (torch.randn(side, side, device=kit.device).to(dtype) for _ in range(2))
        flops[str(dtype).removeprefix("torch.")] = 2 * side**3 / clock.time(lambda a=a, b=b: a @ b).median * 1e3
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=kit.device)
    target = torch.empty_like(source)
    return Ceilings(flops, 2 * size / clock.time(lambda: target.copy_(source)).median * 1e3)


def count_flops(work: Any) -> int:
    """Operations of every product, convolution and attention in `work`, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
