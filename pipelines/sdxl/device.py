"""The device while it computes: which kernels it uses, and what can befall it, in the worker's words."""

import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipelines.errors import DeviceLost, OutOfMemory
from pipelines.profile import Profile
from pipelines.shelf import Shelf

ATTENTION = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def weight_of(net: nn.Module) -> Tensor:
    """The network's first weight, to take device and dtype from.

    diffusers' own properties look through all modules for hooks that none of ours has: 4 ms each for SDXL's UNet.
    """
    return next(net.parameters())


class AttentionKernels:
    """Which kernel to prefer for all attentions, for the threads that generate and compile in one process.

    torch keeps the choice for the whole process and not for a thread. Two that set and restore it by turns would undo
    each other's, for good: so they share one of these, the first of them inside sets it and the last restores it.

    Args:
        first: ``auto`` leaves it to torch. Where the preferred one cannot be used, torch takes an efficient or plain
            one.
    """

    def __init__(self, first: str = "auto") -> None:
        self.first = first
        self._inside = 0
        self._set = ExitStack()
        self._lock = threading.Lock()

    @contextmanager
    def preferred(self) -> Iterator[None]:
        """The kernel is preferred inside."""
        if self.first == "auto":
            yield
            return
        kernels = [ATTENTION[self.first], SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        with self._lock:
            if not self._inside:
                self._set.enter_context(sdpa_kernel(kernels, set_priority=True))
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._set.close()


def kernels_of(profile: Profile, shelf: Shelf) -> AttentionKernels:
    """What the profile prefers, one for all who share the shelf."""
    return shelf.get((AttentionKernels, profile.attention), [], lambda: AttentionKernels(profile.attention))


@contextmanager
def device_failures() -> Iterator[None]:
    """Turn torch's own errors into OutOfMemory, with the memory freed, and DeviceLost; usable as a decorator.

    A CUDA error other than a failed allocation is sticky: every later call in this process fails as well.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # their locals hold the tensors
        torch.cuda.empty_cache()
        raise OutOfMemory(str(error)) from None
    except torch.AcceleratorError as error:
        raise DeviceLost(str(error)) from error
