"""Replays golden cases: `scripts/replay.py {instantid|pulid} --weights DIR --cases DIR`.

Prints `name latents_rel image_max` per case and a last line `worst <latents_rel> <image_max> over <n>`; exits 1 when a
case is above the tolerance or could not run.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts import replay_instantid, replay_pulid

TOLERANCE = 1e-4
REPLAYS = {"instantid": replay_instantid.replay, "pulid": replay_pulid.replay}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(REPLAYS))
    parser.add_argument("--weights", type=Path, required=True, help="model folder, e.g. weights/tiny/pulid")
    parser.add_argument("--cases", type=Path, required=True, help="folder with index.json, e.g. tests/golden/pulid")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the goldens were recorded with one thread
    worst_latents = worst_image = 0.0
    failed = count = 0
    for result in REPLAYS[arguments.model](arguments.weights, arguments.cases):
        count += 1
        worst_latents, worst_image = max(worst_latents, result.latents_rel), max(worst_image, result.image_max)
        bad = result.problem is not None or not max(result.latents_rel, result.image_max) <= TOLERANCE
        failed += bad
        note = f"  FAILED {result.problem or f'above {TOLERANCE}'}" if bad else ""
        print(f"{result.name} {result.latents_rel:.2e} {result.image_max:.2e}{note}", flush=True)
    print(f"worst {worst_latents:.2e} {worst_image:.2e} over {count}")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main())
