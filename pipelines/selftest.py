"""Program: `python -m pipelines.selftest ROOT --out FOLDER` sends one photo through every endpoint on this machine.

JSON lines come out as it goes: facts, not judgement. The photo is NASA's of Eileen Collins, in the public domain.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.catalog import CATALOG
from pipelines.endpoint import Endpoint, Picture, Pipeline
from pipelines.errors import PipelineError
from pipelines.probe import report
from pipelines.profile import Profile
from pipelines.shelf import Shelf

PHOTO = Path(__file__).with_name("selftest.jpg")
CASES: Mapping[str, dict[str, Any]] = {
    "fal-ai/instantid/lcm": {"face_image_url": "photo", "prompt": "portrait of a woman, soft light", "seed": 42},
    "fal-ai/pulid": {"reference_images": [{"image_url": "photo"}], "prompt": "portrait, soft light", "seed": 42},
}
RUNS = 2
"""The first one pays for what is made at first use."""

Fact = dict[str, Any]


def facts(root: Path, profile: Profile, out: Path) -> Iterator[Fact]:
    """The machine; then per endpoint its load and its runs; then the precision of one of them."""
    yield {"fact": "machine", **report()}
    for endpoint in CATALOG:
        yield from guarded(endpoint, lambda endpoint=endpoint: runs_of(endpoint, root, profile, out))
        free()
    yield from guarded(CATALOG[-1], lambda: precision_of(CATALOG[-1], root, profile), "not compared")


def guarded(endpoint: Endpoint, make: Callable[[], Iterator[Fact]], otherwise: str = "failed") -> Iterator[Fact]:
    """The facts, and if they end too soon why, as a fact called `otherwise`: the others are still worth a look."""
    try:
        yield from make()
    except (PipelineError, RuntimeError, OSError) as error:
        yield {"fact": otherwise, "endpoint": endpoint.id, "error": f"{type(error).__name__}: {error}"}


def runs_of(endpoint: Endpoint, root: Path, profile: Profile, out: Path) -> Iterator[Fact]:
    """How long one endpoint takes to load and to answer, and what its last picture is like."""
    began = time.perf_counter()
    pipeline: Pipeline = resolve_name(endpoint.pipeline).load(root / endpoint.folder, profile, Shelf())
    yield {"fact": "loaded", "endpoint": endpoint.id, "seconds": time.perf_counter() - began}
    for run in range(RUNS):
        stages, picture = timed(pipeline, endpoint)
        file = out / f"{endpoint.folder}.png"
        Image.fromarray(picture.image).save(file)
        yield {
            "fact": "generated",
            "endpoint": endpoint.id,
            "run": run + 1,
            "stages": stages,
            "picture": {"file": file.name, **looks(picture.image)},
            "measured": {name: measure() for name, measure in picture.metrics.items()},
            "memory": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        }


def timed(pipeline: Pipeline, endpoint: Endpoint) -> tuple[dict[str, float], Picture]:
    """Seconds per stage of one request, and its picture."""
    marks = [time.perf_counter()]

    def mark(*_: int) -> bool:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else a step's time would be that of its launch
        marks.append(time.perf_counter())
        return False

    prepared = pipeline.prepare(request_of(endpoint), [photo()])
    mark()
    [[picture]] = pipeline.generate([prepared], mark)
    mark()
    between = [after - before for before, after in pairwise(marks)]
    steps = between[2:-1] or between[1:2]
    stages = {
        "prepare": between[0],
        "encode and first step": between[1],
        "step": statistics.median(steps),
        "decode": between[-1],
        "total": marks[-1] - marks[0],
    }
    return stages, picture


def precision_of(endpoint: Endpoint, root: Path, profile: Profile) -> Iterator[Fact]:
    """How far the latents of one request are from those of float32, relative to their norm."""
    if profile.dtype == "float32":
        return
    found = []
    for dtype in (profile.dtype, "float32"):
        pipeline: Any = resolve_name(endpoint.pipeline).load(
            root / endpoint.folder, replace(profile, dtype=dtype), Shelf()
        )
        prepared = pipeline.prepare(request_of(endpoint), [photo()])
        [[raw]] = pipeline.generate([prepared], lambda *_: False, output_type="raw")
        found.append(raw.latents.double().cpu())
        del pipeline, prepared, raw
        free()
    error = ((found[0] - found[1]).norm() / found[1].norm()).item()
    yield {"fact": "precision", "endpoint": endpoint.id, "dtype": profile.dtype, "error": error}


def request_of(endpoint: Endpoint) -> Any:
    return endpoint.input.model_validate(CASES[endpoint.id]).request()


def photo() -> Image.Image:
    return Image.open(PHOTO).convert("RGB")


def looks(image: NDArray[np.uint8]) -> dict[str, float]:
    """What tells a black or a constant picture from another: 0 to 255."""
    return {"width": image.shape[1], "height": image.shape[0], "mean": float(image.mean()), "std": float(image.std())}


def free() -> None:
    """Give the memory of what is no longer used back, before the next model comes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Print the facts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the folder with one folder per model")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    parser.add_argument("--profile", type=json.loads, default={}, help="fields of the profile, as JSON")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for fact in facts(options.root, Profile(**options.profile), options.out):
        print(json.dumps(fact), flush=True)


if __name__ == "__main__":
    main()
