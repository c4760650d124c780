"""How long until the first picture: imports, building on the meta device, reading the files, the first request.

    python -m scripts.bench_cold_start [--full] [--only pulid|instantid] [--repeat 3]

The tiny weights, or with --full zeros in the real checkpoints' names, shapes and sizes (they take no room on the disk,
so reading them is reading memory: what remains is our own work). Each start is a process of its own, as in real life.
Face models cannot be made up: with --full none is loaded and no picture is made. On a CPU, so without a GPU's context.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.make_stand_ins import make_stand_ins
from weights.store import tiny_root

ROOT = Path(__file__).parent.parent
STAGES = ("imports", "build", "read", "first picture")
START = """
import json, sys, time
began = time.perf_counter()
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from pipelines.catalog import CATALOG
from pipelines.profile import Profile
endpoint = next(one for one in CATALOG if one.folder == sys.argv[2])
cls = resolve_name(endpoint.pipeline)
told = {"imports": time.perf_counter() - began}
folder, full = Path(sys.argv[1]) / endpoint.folder, sys.argv[3] == "full"
profile = Profile(device="cpu", dtype="float16" if full else "float32", detector="haar", max_side=256, tiny=not full)
faces = {"faces": object()} if full else {}

def seconds(make):
    began = time.perf_counter()
    made = make()
    return time.perf_counter() - began, made

told["build"], _ = seconds(lambda: cls.load(folder, replace(profile, device="meta"), faces=object()))
whole, pipeline = seconds(lambda: cls.load(folder, profile, **faces))
told["read"] = whole - told["build"]
if not full:
    from pipelines.selftest import photo, request_of
    request = request_of(endpoint)
    prepare = lambda: pipeline.prepare(request, [photo()])
    told["first picture"], _ = seconds(lambda: pipeline.generate([prepare()], lambda *_: False))
print(json.dumps(told))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=("instantid", "pulid"))
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    kind, models = "full" if options.full else "tiny", [options.only] if options.only else ["instantid", "pulid"]
    print(f"| {kind}, seconds (median of {options.repeat}) | " + " | ".join(STAGES) + " | together |")
    print("|---|" + "---|" * (len(STAGES) + 1))
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            root = tiny_root()
            if options.full:
                root = Path(scratch)
                make_stand_ins(root, model)
            print(row(model, [start(root, model, kind) for _ in range(options.repeat)]), flush=True)


def start(root: Path, model: str, kind: str) -> dict[str, float]:
    """One start of one model in a process of its own: stage -> seconds."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START, str(root), model, kind],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def row(model: str, starts: list[dict[str, float]]) -> str:
    medians = {stage: statistics.median(one[stage] for one in starts) for stage in starts[0]}
    cells = [f"{medians[stage]:.2f}" if stage in medians else "" for stage in STAGES]
    return f"| {model} | " + " | ".join(cells) + f" | {sum(medians.values()):.2f} |"


if __name__ == "__main__":
    main()
