"""torch's failures in the words that the worker understands."""

import gc
import threading
import weakref

import pytest
import torch

from pipelines.errors import DeviceLost, OutOfMemory
from pipelines.profile import Profile
from pipelines.sdxl.device import AttentionKernels, device_failures, kernels_of
from pipelines.sdxl.graph import runner_of
from pipelines.shelf import Shelf

CPU = torch.device("cpu")


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


def allowed() -> list[bool]:
    cuda = torch.backends.cuda
    return [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()]


def test_the_first_inside_sets_the_kernels_and_the_last_one_restores_them():
    before, kernels = allowed(), AttentionKernels("math")
    only = [False, True, True]
    assert before != only, "or nothing would be seen"
    entered, over, seen = threading.Event(), threading.Event(), []

    def compile_beside() -> None:
        with kernels.preferred():
            entered.set()
            over.wait(30)
            seen.append(allowed())

    other = threading.Thread(target=compile_beside)
    with kernels.preferred():
        other.start()
        assert entered.wait(30)
    assert allowed() == only, "somebody is inside still"
    over.set()
    other.join()
    assert seen == [only]
    assert allowed() == before


def test_whoever_shares_a_shelf_shares_the_kernels():
    shelf = Shelf()
    kernels = kernels_of(Profile(attention="flash"), shelf)
    assert runner_of(Profile(device="cpu", compile=True, attention="flash"), CPU, shelf).compiler.attention is kernels
    assert kernels_of(Profile(attention="cudnn"), shelf) is not kernels
