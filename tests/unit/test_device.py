"""torch's failures in the words that the worker understands."""

import gc
import weakref

import pytest
import torch

from pipelines.errors import DeviceLost, OutOfMemory
from pipelines.sdxl.device import device_failures


class Ballast:
    """Something whose life can be watched."""


def test_out_of_memory_frees_what_the_failed_call_had_taken():
    watched = []

    @device_failures()
    def allocate() -> None:
        ballast = Ballast()
        watched.append(weakref.ref(ballast))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(OutOfMemory, match=r"2\.00 GiB") as caught:
        allocate()
    gc.collect()
    assert watched[0]() is None
    assert caught.value.__cause__ is None


def test_a_sticky_error_loses_the_device():
    with pytest.raises(DeviceLost, match="illegal memory access"), device_failures():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_other_errors_pass_unchanged():
    with pytest.raises(ZeroDivisionError), device_failures():
        raise ZeroDivisionError
