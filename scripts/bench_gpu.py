"""Upstream's way, plain diffusers' and ours on this GPU, full size, random weights: `python -m scripts.bench_gpu`.

No checkpoint is needed, and of Python's packages only torch, diffusers, transformers, accelerate, peft, safetensors,
pydantic, numpy, Pillow and OpenCV. Lines of JSON come as they are found, and a page of Markdown beside them, so that a
run that is cut keeps what it had. Exits 1 when a way computes something else than float32 does, or could not run.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from diffusers.utils import logging

from scripts.gpu.bench import OTHERS, SPEEDS, Plan, run_bench
from scripts.gpu.clock import Clock
from scripts.gpu.journal import Journal, machine
from scripts.gpu.networks import Kit

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"

COLUMNS = (*OTHERS, *SPEEDS)
QUICK = ("upstream", "eager", "graph")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the benchmark and the check have in common."""
    parser.add_argument("--device", default="cuda", help="torch's name of the device (default cuda)")
    parser.add_argument(
        "--dtype", choices=["float16", "bfloat16", "float32"], default="float16", help="precision of the columns"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny networks: shows that the program runs, and no more")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}; no batches")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, help="only these")
    parser.add_argument("--runs", type=int, default=9, help="of each figure, after two that do not count (default 9)")
    parser.add_argument("--minutes", type=float, default=9, help="after these no further column begins (default 9)")
    parser.add_argument("--weights", type=Path, help="folder with real weights: times SCRFD and ArcFace of antelopev2")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for the two files (default {OUT})")


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What was asked for. Exits when the device is not there."""
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(
            f"torch {torch.__version__} sees no CUDA GPU on this machine. "
            "--tiny --device cpu shows that the program runs"
        )
    columns = arguments.columns or (QUICK if arguments.quick else COLUMNS)
    return Plan(
        kit=Kit("tiny" if arguments.tiny else "full", arguments.device, getattr(torch, arguments.dtype)),
        clock=Clock(arguments.device, arguments.runs, warm=0 if arguments.tiny else 2),
        columns=tuple(columns),
        deadline=time.monotonic() + arguments.minutes * 60,
        single=arguments.quick,
        weights=arguments.weights,
    )


def begin(arguments: argparse.Namespace) -> Journal:
    """The run's files, with what the figures depend on."""
    logging.set_verbosity_error()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    journal = Journal(arguments.out, arguments.device)
    journal.write("machine", machine(arguments.device))
    return journal


def end(journal: Journal) -> int:
    """Say where everything is, and what did not hold."""
    for name in journal.failed:
        print(f"FAILED {name}", file=sys.stderr)
    print(f"{journal.page}\n{journal.path}")
    return int(bool(journal.failed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    arguments = parser.parse_args()
    plan, journal = plan_of(arguments), begin(arguments)
    run_bench(plan, journal)
    return end(journal)


if __name__ == "__main__":
    sys.exit(main())
