"""A pipeline that runs out of memory gives back all that it only keeps to be faster, before it says so."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import OutOfMemory
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline

TINY = Path(__file__).parents[2] / "weights" / "tiny" / "pulid"


def test_recordings_and_texts_are_forgotten_and_the_next_try_paints_the_same_picture():
    """row 11."""
    pipeline = PuLIDPipeline.load(
        TINY, Profile(device="cpu", dtype="float32", detector="haar", tiny=True, graphs=True, identity_cache_mb=8)
    )
    prepared = pipeline.prepare(PuLIDRequest("portrait", num_inference_steps=2, width=64, height=64, seed=1), [])

    def paint() -> np.ndarray:
        return pipeline.generate([prepared], lambda step, total: False)[0][0].image

    def no_room(step: int, total: int) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    first, _ = paint(), paint()
    assert (pipeline.runner.recorded > 0, len(pipeline.cache) > 0) == (True, True)
    with pytest.raises(OutOfMemory):
        pipeline.generate([prepared], no_room)
    assert (pipeline.runner.recorded, len(pipeline.cache)) == (0, 0)
    assert np.array_equal(paint(), first)
