"""ControlNets beside the UNet's encoder: one after another, or at the same time on CUDA streams (performance.md §3.6).

The UNet's down blocks do not depend on what the ControlNets add after them. diffusers walks through the added residuals
only there, so that an iterable which waits for the other streams when it is walked through joins them just in time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Residuals = list[Tensor]
Net = Callable[[Tensor, Tensor], Residuals]
"""``net(latents, timestep)``: what it adds to each skip connection and, last, to the middle."""

Added = tuple[Iterable[Tensor] | None, Tensor | None]
"""Skip connections and middle as the UNet takes them."""


class Branches(Protocol):
    """How the nets are run."""

    def added(self, nets: Sequence[Net], latents: Tensor, timestep: Tensor) -> Added:
        """The nets' residuals, added up; None without any net."""
        ...


@dataclass(frozen=True)
class OneByOne:
    """One net after another, all before the UNet."""

    def added(self, nets: Sequence[Net], latents: Tensor, timestep: Tensor) -> Added:
        """See Branches."""
        if not nets:
            return None, None
        total = add_up([net(latents, timestep) for net in nets])
        return total[:-1], total[-1]


@dataclass(frozen=True, eq=False)
class Awaited:
    """Residuals that other streams compute; whoever walks through them makes the current stream wait for that."""

    residuals: Residuals
    stream: torch.cuda.Stream

    def __iter__(self) -> Iterator[Tensor]:
        torch.cuda.current_stream().wait_stream(self.stream)
        return iter(self.residuals)


class AtOnce:
    """Every net on a CUDA stream of its own, while the current stream goes on to the UNet's encoder.

    No memory is reused too early: a side stream begins a step by waiting for the current one, which has by then waited
    for the side streams of the step before.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: list[torch.cuda.Stream] = []

    def added(self, nets: Sequence[Net], latents: Tensor, timestep: Tensor) -> Added:
        """See Branches."""
        if not nets:
            return None, None
        current, columns = torch.cuda.current_stream(self._device), []
        self._streams += [torch.cuda.Stream(self._device) for _ in nets[len(self._streams) :]]
        first, *others = self._streams[: len(nets)]
        for stream, net in zip([first, *others], nets, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                columns.append(net(latents, timestep))
        for stream in others:
            first.wait_stream(stream)
        with torch.cuda.stream(first):
            total = add_up(columns)
        return Awaited(total[:-1], first), total[-1]


def add_up(columns: Sequence[Residuals]) -> Residuals:
    """The columns' sum, one by one in order."""
    total, *others = columns
    for residuals in others:
        total = [a + b for a, b in zip(total, residuals, strict=True)]
    return total


def branches_of(at_once: bool, device: torch.device) -> Branches:
    """At once on a GPU when it is asked for, else one by one."""
    return AtOnce(device) if at_once and device.type == "cuda" else OneByOne()
