"""Host time of a denoising step, against the same step as others compose it: `python -m scripts.bench_host`.

Networks of SDXL's full depth and tiny width, one thread: Python and dispatching are nearly all of the time, as they are
on a fast GPU that waits for its host. It says nothing about a GPU's own time. Whole loops are timed, ours and the other
by turns, in CPU time; the first turn is discarded, the figures are medians, and the ratio is that of the turns' ratios.

The others: `plain` is composed of diffusers' parts with the LoRA fused; `upstream` is what upstream's demos run, for
InstantID with its LoRA unfused. Last lines: `ratio <model> <other> <other / ours>`.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from diffusers.utils import logging
from torch import Tensor

from pipelines.sdxl.denoise import Step, denoise
from scripts import full_depth, step_inputs, upstream_steps, usual_steps

BARS = {"instantid plain": 1.35, "instantid upstream": 1.9, "pulid upstream": 1.35}
"""The least ratio that `--check` accepts (performance.md §5)."""


@dataclass(frozen=True)
class Pair:
    """Our step and another one for the same work, in requests of `steps` steps."""

    name: str
    work: str
    steps: int
    ours: Step
    other: Step
    latents: Tensor


@dataclass(frozen=True)
class Figure:
    """Host milliseconds per step, one of each per turn."""

    pair: Pair
    ours: list[float]
    other: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(other / ours for ours, other in zip(self.ours, self.other, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["all", *PAIRS], default="all")
    parser.add_argument("--repeats", type=int, default=11, help="turns, each a whole loop of both (default 11)")
    parser.add_argument("--quick", action="store_true", help="two turns: shows that it runs, and no more")
    parser.add_argument("--check", action="store_true", help=f"exit 1 when a ratio is below its bar: {BARS}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    models = list(PAIRS) if arguments.model == "all" else [arguments.model]
    print(f"{'host ms per step':34}{'ours':>8}{'other':>8}{'ratio':>8}")
    ratios: dict[str, float] = {}
    with torch.inference_mode():
        for pair in (pair for model in models for pair in PAIRS[model]()):
            figure = measure(pair, 2 if arguments.quick else arguments.repeats)
            ratios.setdefault(pair.name, figure.ratio)
            ours, other = statistics.median(figure.ours), statistics.median(figure.other)
            print(f"{pair.name + ', ' + pair.work:34}{ours:8.1f}{other:8.1f}{figure.ratio:8.2f}", flush=True)
    for name, ratio in ratios.items():
        print(f"ratio {name} {ratio:.2f}")
    return int(arguments.check and below_bar(ratios))


def below_bar(ratios: Mapping[str, float]) -> bool:
    """Whether a ratio is not what it must be."""
    return any(ratio < BARS[name] for name, ratio in ratios.items())


def instantid_pairs() -> Iterator[Pair]:
    """UNet, IdentityNet and canny ControlNet, guided; upstream and ours keep the identity inside the face's box."""
    pipeline = full_depth.instantid()
    ours, latents = full_depth.instantid_step(pipeline)
    inputs = step_inputs.instantid_inputs(pipeline, full_depth.instantid_prepared(pipeline))
    for name, build in (("plain", usual_steps.instantid), ("upstream", upstream_steps.instantid)):
        unet = full_depth.unet("instantid/base")
        if name == "upstream":
            upstream_steps.add_lora(unet, upstream_steps.draw_lora(unet))
        controls = [full_depth.control_net(folder) for folder in ("ControlNetModel", "controlnet-canny")]
        weights = step_inputs.identity_weights(pipeline.identity_layers)
        other = build(unet, controls, weights, copy.deepcopy(pipeline.scheduler), inputs)
        yield Pair(f"instantid {name}", "two ControlNets", inputs.steps, ours, other, latents)


def pulid_pairs() -> Iterator[Pair]:
    """UNet, guided; the endpoint's default mode first, for it is the one that the last line tells."""
    pipeline = full_depth.pulid()
    for mode in usual_steps.MODES:
        ours, latents = full_depth.pulid_step(pipeline, mode=mode)
        inputs = step_inputs.pulid_inputs(pipeline, full_depth.pulid_prepared(pipeline, mode=mode))
        weights, scheduler = step_inputs.identity_weights(pipeline.identity_layers), copy.deepcopy(pipeline.scheduler)
        other = usual_steps.pulid(full_depth.unet("pulid/sdxl_base"), weights, scheduler, inputs, mode)
        yield Pair("pulid upstream", mode, inputs.steps, ours, other, latents)


PAIRS = {"instantid": instantid_pairs, "pulid": pulid_pairs}


def measure(pair: Pair, turns: int) -> Figure:
    """Both loops by turns, so that a noisy machine hits both; the first turn only warms up."""
    times = [(loop_ms(pair, pair.ours), loop_ms(pair, pair.other)) for _ in range(turns + 1)][1:]
    return Figure(pair, [ours for ours, _ in times], [other for _, other in times])


def loop_ms(pair: Pair, step: Step) -> float:
    """CPU milliseconds per step of one request's loop: what other programs on the machine do hardly counts."""
    began = time.process_time()
    denoise(step, pair.latents, pair.steps, lambda step, total: False)
    return (time.process_time() - began) * 1e3 / pair.steps


if __name__ == "__main__":
    sys.exit(main())
