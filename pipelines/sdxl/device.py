"""The device while it computes: which kernels it uses, and what can befall it, in the worker's words."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipelines.errors import DeviceLost, OutOfMemory

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


@contextmanager
def attention_kernels(first: str) -> Iterator[None]:
    """Prefer a kernel for all attentions, in the whole process; ``auto`` leaves it to torch.

    Where the preferred one cannot be used (the VAE's heads are 512 wide), torch takes an efficient or plain one.
    """
    if first == "auto":
        yield
        return
    kernels = [ATTENTION[first], SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kernels, set_priority=True):
        yield


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
