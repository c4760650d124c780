"""Program: `python -m pipelines.prepare ROOT TARGET… [--dtype float16]` makes what a server maps at its start.

A target below the weights root is either a pickle's tensors as safetensors, beside the pickle; or InstantID's default
UNet with LCM's LoRA in it. `veraicon weights prepare` runs this, and keeps account of what was made of what. One line
of JSON comes out per file.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.checkpoint import PICKLES, read_tensors
from pipelines.errors import LoadError
from pipelines.instantid.lora import FUSED, load_lcm_unet
from pipelines.profile import Profile

STATISTICS = ("running_mean", "running_var")
"""Of batch norms: a variance below float16's normal range would scale its channel wrongly (BiSeNet has such)."""


def prepare(target: Path, dtype: torch.dtype) -> None:
    """Make one file. Raises LoadError naming what it cannot be made of."""
    tensors = fused_unet(target.parent) if target.name == FUSED else pickled(target)
    write(target, {name: stored(name, tensor, dtype) for name, tensor in tensors.items()})


def fused_unet(folder: Path) -> dict[str, Tensor]:
    """InstantID's default UNet plus alpha / rank * up @ down, added in float32; rounded once, when it is stored."""
    unet = load_lcm_unet(folder, folder / "base", Profile(device="cpu", dtype="float32"), "fused")
    return nn.Module.state_dict(unet)


def pickled(target: Path) -> dict[str, Tensor]:
    """The tensors of the pickle that `target` stands for, under flat names (``ip_adapter.1.to_k_ip.weight``)."""
    for source in (target.with_suffix(suffix) for suffix in PICKLES):
        if source.exists():
            return flat(read_tensors(source))
    raise LoadError(f"{target.with_suffix('')}.* is missing. `veraicon weights pull` gets it")


def flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Nested sections as dotted names."""
    tensors = {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        tensors |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return tensors


def stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor as it is written, with storage of its own: never wider than it was, and no number lost to infinity."""
    keeps = not tensor.is_floating_point() or tensor.itemsize <= dtype.itemsize or name.endswith(STATISTICS)
    if keeps:
        return tensor.clone().contiguous()
    rounded = tensor.to(dtype).contiguous()
    return rounded if torch.isfinite(rounded).all() or not torch.isfinite(tensor).all() else tensor.contiguous()


def write(target: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that is there wholly or not at all."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        save_file(tensors, unfinished, metadata={"format": "pt"})
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def main() -> None:
    """Make the targets one by one and report each."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.prepare", description="See `veraicon weights prepare`.")
    parser.add_argument("root", type=Path)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    options = parser.parse_args()
    try:
        for target in options.targets:
            prepare(options.root / target, getattr(torch, options.dtype))
            sys.stdout.write(json.dumps({"written": target}) + "\n")
            sys.stdout.flush()
    except (LoadError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
