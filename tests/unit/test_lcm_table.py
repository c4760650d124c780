"""InstantID's sampler table against the timesteps that upstream's scheduler gave, for every number of steps."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import LCMScheduler

from pipelines.instantid.load import load_scheduler
from pipelines.sdxl.samplers import lcm_table

ROOT = Path(__file__).parents[2]
TIMESTEPS = json.loads((ROOT / "tests/golden/instantid/index.json").read_text())["extras"]["lcm_timesteps"]


@pytest.mark.parametrize("steps", range(1, 51))
def test_the_timesteps_are_upstreams(steps: int) -> None:
    table = lcm_table(load_scheduler(ROOT / "weights/tiny/instantid/base/scheduler"), steps, torch.device("cpu"))
    assert table.timesteps.tolist() == TIMESTEPS[str(steps)]


@pytest.mark.parametrize("scaling", [0.001, 0.01, 10.0])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_every_step_is_diffusers_step_also_where_the_boundary_conditions_weigh(steps: int, scaling: float) -> None:
    """At LCM's own scaling c_skip is next to nothing at every timestep used; a small one makes it most of the step."""
    scheduler = LCMScheduler.from_config(
        load_scheduler(ROOT / "weights/tiny/instantid/base/scheduler").config, timestep_scaling=scaling
    )
    table = lcm_table(scheduler, steps, torch.device("cpu"))
    generator = torch.Generator().manual_seed(3)
    ours = theirs = torch.randn(1, 4, 8, 8, generator=generator)
    for i, t in enumerate(table.timesteps):
        fresh_from = torch.Generator().manual_seed(i)
        fresh = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) if i < steps - 1 else None
        ours = table.step(ours, torch.sin(ours), i, fresh)
        theirs = scheduler.step(torch.sin(theirs), t, theirs, generator=fresh_from).prev_sample
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
