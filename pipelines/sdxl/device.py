"""What can befall the device while it computes, in the words that the worker understands."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipelines.errors import DeviceLost, OutOfMemory


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
