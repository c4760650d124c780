"""How much memory a worker takes that offers both models, every network of them on the card at the same time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pipelines.instantid.controls import FOLDERS
from pipelines.profile import Profile
from pipelines.sdxl.graph import runner_of
from pipelines.sdxl.residents import size_of
from scripts.gpu.clock import Clock
from scripts.gpu.columns import never
from scripts.gpu.journal import Check
from scripts.gpu.models import instantid, prepared, pulid
from scripts.gpu.networks import Kit
from scripts.gpu.rows import GB, PEAK, Row, peak_gb, reset_peak

BOTH, COLUMN = "both models", "graph"

MOST_GB = 28
"""What torch may allocate at most (performance.md §5), nothing being shared between the models."""

REQUESTS = 3
"""To each model: as it is, recorded, replayed."""


def both_resident(kit: Kit, clock: Clock) -> Iterator[Row | Check]:
    """Default requests to both models by turns, with all ControlNets loaded and the steps recorded."""
    pipelines = [instantid(kit, controls=tuple(FOLDERS)), pulid(kit)]
    yield Row(BOTH, COLUMN, "weights", "GB", sum(map(weights_of, pipelines)) / GB)
    for pipeline in pipelines:
        pipeline.runner = runner_of(Profile(device=kit.device, graphs=True), torch.device(kit.device))
    reset_peak(clock)
    for seed in range(REQUESTS):
        for pipeline in pipelines:
            pipeline.generate([prepared(pipeline, kit, seed=seed)], never)
    yield Check(f"{BOTH} resident, steps that could not be recorded", sum(map(unrecorded, pipelines)), 0)
    if (peak := peak_gb(clock)) is not None:
        yield Row(BOTH, COLUMN, PEAK, "GB", peak)
        yield Check(f"{BOTH} resident, peak in GB", peak, MOST_GB)


def unrecorded(pipeline: Any) -> int:
    """Recordings that failed, and one more where there is none at all: the peak would be that of plain steps."""
    return len(pipeline.runner.failures) + (pipeline.runner.recorded == 0)


def weights_of(pipeline: Any) -> int:
    """Bytes of all networks of a pipeline."""
    return sum(size_of(net) for net in pipeline.components.values() if isinstance(net, nn.Module))
