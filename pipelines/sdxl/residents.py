"""Networks that wait in the computer's memory and come to the device when they are needed (decision 0034)."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from pipelines.memory import budget_of
from pipelines.profile import Profile
from pipelines.sdxl.slabs import copies
from pipelines.shelf import Shelf


class Residents:
    """Which networks are on the device now. For the thread that generates.

    Args:
        budget: bytes that networks and what they compute may take there; None: all networks are there for good.
    """

    def __init__(self, device: torch.device, budget: int | None = None) -> None:
        self.device, self.budget = device, budget
        self._there = OrderedDict[nn.Module, int]()
        self._homes: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        self._busy: set[nn.Module] = set()

    @property
    def there(self) -> Sequence[nn.Module]:
        """The networks that visit now, the one unused for longest first."""
        return list(self._there)

    @contextmanager
    def visit(self, *nets: nn.Module, scratch: int = 0) -> Iterator[None]:
        """The networks are on the device inside this context, with `scratch` bytes of room beside them.

        They stay until others need the room; those unused for longest go first.
        """
        if self.budget is None:
            yield
            return
        before = set(self._busy)
        self._busy |= set(nets)
        try:
            missing = [net for net in nets if net not in self._there]
            self._make_room(sum(map(size_of, missing)) + scratch)
            for net in nets:
                self._bring(net)
            yield
        finally:
            self._busy = before

    def clear(self) -> None:
        """Send all home and forget them, e.g. when a network is about to be replaced."""
        for net in self.there:
            self._send_home(net)
        self._homes.clear()

    def _make_room(self, size: int) -> None:
        for net in [net for net in self._there if net not in self._busy]:
            if sum(self._there.values()) + size <= (self.budget or 0):
                return
            self._send_home(net)

    def _bring(self, net: nn.Module) -> None:
        if net not in self._there:
            homes = self._homes.setdefault(net, [])
            with torch.inference_mode(False):
                homes[:] = homes or homes_of(net, self.device)
                for tensor, home in homes:
                    tensor.data = home.to(self.device, non_blocking=True, copy=True)
            self._there[net] = size_of(net)
        self._there.move_to_end(net)

    def _send_home(self, net: nn.Module) -> None:
        with torch.inference_mode(False):
            for tensor, home in self._homes[net]:
                tensor.data = home
        del self._there[net]


def tensors_of(net: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    return chain(net.parameters(), net.buffers())


def size_of(net: nn.Module) -> int:
    """Bytes of a network's weights."""
    return sum(tensor.nbytes for tensor in tensors_of(net))


def homes_of(net: nn.Module, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Each tensor with its data in the computer's memory; pinned if it is to go to a GPU, which is twice as fast."""
    inside = list(tensors_of(net))
    data = [tensor.data for tensor in inside]
    return list(zip(inside, copies(data) if device.type == "cuda" else data, strict=True))


def residents_of(profile: Profile, shelf: Shelf) -> Residents:
    """What the profile's memory asks for, one for all pipelines of the shelf."""
    budget = None if profile.memory in ("auto", "48gb") else budget_of(profile.memory)
    return shelf.get((Residents, profile), [], lambda: Residents(torch.device(profile.device), budget))
