"""Program: `python -m pipelines.warm ROOT --cache FOLDER` compiles the usual steps before anybody asks.

The folder is what a server's compile_cache_dir takes, on this machine or another with the same torch and the same card.
What is compiled counts for the precision and the sizes given.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pipelines.catalog import CATALOG
from pipelines.endpoint import Endpoint
from pipelines.errors import LoadError
from pipelines.profile import Profile
from pipelines.selftest import photo, request_of
from pipelines.shelf import Shelf

SIZES = {"fal-ai/instantid/lcm": (960, 1280), "fal-ai/pulid": (768, 1024)}
"""Of the default request to each endpoint, width first."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.warm", description=__doc__)
    parser.add_argument("root", type=Path, help="the weights folder, with one folder per endpoint")
    parser.add_argument("--cache", type=Path, required=True, help="where compiled steps go")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument(
        "--size", action="append", type=size_of, help="WIDTHxHEIGHT, also several; default each endpoint's own"
    )
    options = parser.parse_args(arguments)
    on_gpu = options.device != "cpu"
    profile = Profile(
        options.device, options.dtype, compile=True, compile_cache=options.cache, channels_last=on_gpu, prepared=True
    )
    try:
        failures = [failure for one in CATALOG for failure in warm(one, options.root, profile, options.size or ())]
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    for failure in failures:
        print(f"not compiled: {failure}", file=sys.stderr)
    return 1 if failures else 0


def warm(endpoint: Endpoint, root: Path, profile: Profile, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Compile one endpoint's steps for each size; why some could not be. Raises LoadError."""
    pipeline: Any = resolve_name(endpoint.pipeline).load(root / endpoint.folder, profile, Shelf())
    compiler = pipeline.runner.compiler
    wanted = sizes or [SIZES[endpoint.id]]
    compiler.most = 2 * len(wanted)  # a step and a decoding for each size
    for number, size in enumerate(wanted, 1):
        print(f"{endpoint.id} {size[0]}x{size[1]}: {number} of {len(wanted)}, this takes minutes", flush=True)
        prepared = pipeline.prepare(at_size(request_of(endpoint), size), [photo()])
        for _ in range(2):  # the first one shows the kind, the second asks for it
            pipeline.generate([prepared], lambda step, total: False, "raw")
        compiler.wait()
    return compiler.failures


def size_of(text: str) -> tuple[int, int]:
    """``"960x1280"`` -> (960, 1280). Raises ArgumentTypeError."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or int(width) % 8 or int(height) % 8:
        raise argparse.ArgumentTypeError(f"{text} is no size: give WIDTHxHEIGHT in multiples of 8, like 960x1280")
    return int(width), int(height)


def at_size(request: Any, size: tuple[int, int]) -> Any:
    """A request of either model for a picture of this width and height."""
    width, height = size
    return replace(
        request, **({"size": (width, height)} if hasattr(request, "size") else {"width": width, "height": height})
    )


if __name__ == "__main__":
    sys.exit(main())
