"""InstantID's sampler table against the timesteps that upstream's scheduler gave, for every number of steps."""

import json
from pathlib import Path

import pytest
import torch

from pipelines.instantid.load import load_scheduler
from pipelines.sdxl.samplers import lcm_table

ROOT = Path(__file__).parents[2]
TIMESTEPS = json.loads((ROOT / "tests/golden/instantid/index.json").read_text())["extras"]["lcm_timesteps"]


@pytest.mark.parametrize("steps", range(1, 51))
def test_the_timesteps_are_upstreams(steps: int) -> None:
    table = lcm_table(load_scheduler(ROOT / "weights/tiny/instantid/base/scheduler"), steps, torch.device("cpu"))
    assert table.timesteps.tolist() == TIMESTEPS[str(steps)]
