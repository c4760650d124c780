"""Everything that one visit to a GPU must tell: `make gpu-check`, or `python -m scripts.gpu_check` on a bare machine.

First whether it is right: upstream's recorded pictures in every precision, and every fast way against the plain one on
random weights of the real sizes. Then how fast: see `python -m scripts.bench_gpu --help`, whose options these are.
Exits 1 when something is not right.
"""

import argparse
import sys
from collections.abc import Iterator

from scripts.bench_gpu import add_arguments, begin, end, plan_of
from scripts.gpu.bench import Plan, run_bench
from scripts.gpu.checks import golden_checks
from scripts.gpu.journal import Check

TINY_CASES, QUICK_CASES = 1, 6
"""Recorded requests of each model that a tiny or a quick run replays in each precision; a whole one replays all."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    arguments = parser.parse_args()
    plan, journal = plan_of(arguments), begin(arguments)
    most = QUICK_CASES if arguments.quick else None
    goldens = tiny_goldens(plan) if arguments.tiny else golden_checks(arguments.device, most=most)
    for check in goldens:
        journal.check(check)
    run_bench(plan, journal)
    return end(journal)


def tiny_goldens(plan: Plan) -> Iterator[Check]:
    """A few recorded requests: loading the pipelines takes longer than running them."""
    return golden_checks(plan.kit.device, dict.fromkeys(("float32", plan.dtype)), TINY_CASES)


if __name__ == "__main__":
    sys.exit(main())
