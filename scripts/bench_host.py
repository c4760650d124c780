"""Host time of a denoising step, against the same step composed of stock parts: `python -m scripts.bench_host`.

Networks of SDXL's full depth and tiny width, one thread: Python and dispatching are nearly all of the time, as they are
on a fast GPU that waits for its host. It says nothing about a GPU's own time. Whole loops are timed, ours and the usual
by turns, in CPU time; the first turn is discarded, the figures are medians, and the ratio is that of the turns' ratios.

Last lines: `ratio <model> <usual / ours>`.
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
from scripts import full_depth, usual_steps

BARS = {"instantid": 1.35, "pulid": 1.3}
"""The least ratio that `--check` accepts."""


@dataclass(frozen=True)
class Pair:
    """Our step and the usual one for the same work, in requests of `steps` steps."""

    model: str
    work: str
    steps: int
    ours: Step
    usual: Step
    latents: Tensor


@dataclass(frozen=True)
class Figure:
    """Host milliseconds per step, one of each per turn."""

    pair: Pair
    ours: list[float]
    usual: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(usual / ours for ours, usual in zip(self.ours, self.usual, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["all", *BARS], default="all")
    parser.add_argument("--repeats", type=int, default=11, help="turns, each a whole loop of both (default 11)")
    parser.add_argument("--quick", action="store_true", help="two turns: shows that it runs, and no more")
    parser.add_argument("--check", action="store_true", help=f"exit 1 when a ratio is below its bar: {BARS}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    models = list(BARS) if arguments.model == "all" else [arguments.model]
    print(f"{'host ms per step':30}{'ours':>8}{'usual':>8}{'ratio':>8}")
    ratios: dict[str, float] = {}
    with torch.inference_mode():
        for pair in (pair for model in models for pair in PAIRS[model]()):
            figure = measure(pair, 2 if arguments.quick else arguments.repeats)
            ratios.setdefault(pair.model, figure.ratio)
            ours, usual = statistics.median(figure.ours), statistics.median(figure.usual)
            print(f"{pair.model + ', ' + pair.work:30}{ours:8.1f}{usual:8.1f}{figure.ratio:8.2f}", flush=True)
    for model, ratio in ratios.items():
        print(f"ratio {model} {ratio:.2f}")
    return int(arguments.check and below_bar(ratios))


def below_bar(ratios: Mapping[str, float]) -> bool:
    """Whether a model's ratio is not what it must be."""
    return any(ratio < BARS[model] for model, ratio in ratios.items())


def instantid_pairs() -> Iterator[Pair]:
    """UNet, IdentityNet and canny ControlNet, guided; ours restricts the identity to the face's box on top."""
    pipeline = full_depth.instantid()
    ours, latents = full_depth.instantid_step(pipeline)
    usual = usual_steps.instantid(copy.deepcopy(pipeline.scheduler), 5)
    yield Pair("instantid", "two ControlNets", 5, ours, usual, latents)


def pulid_pairs() -> Iterator[Pair]:
    """UNet, guided; the endpoint's default mode first, for it is the one that the last line tells."""
    pipeline = full_depth.pulid()
    for mode in usual_steps.MODES:
        ours, latents = full_depth.pulid_step(pipeline, mode=mode)
        usual = usual_steps.pulid(copy.deepcopy(pipeline.scheduler), 4, mode)
        yield Pair("pulid", mode, 4, ours, usual, latents)


PAIRS = {"instantid": instantid_pairs, "pulid": pulid_pairs}


def measure(pair: Pair, turns: int) -> Figure:
    """Both loops by turns, so that a noisy machine hits both; the first turn only warms up."""
    times = [(loop_ms(pair, pair.ours), loop_ms(pair, pair.usual)) for _ in range(turns + 1)][1:]
    return Figure(pair, [ours for ours, _ in times], [usual for _, usual in times])


def loop_ms(pair: Pair, step: Step) -> float:
    """CPU milliseconds per step of one request's loop: what other programs on the machine do hardly counts."""
    began = time.process_time()
    denoise(step, pair.latents, pair.steps, lambda step, total: False)
    return (time.process_time() - began) * 1e3 / pair.steps


if __name__ == "__main__":
    sys.exit(main())
