"""Where a checkpoint's file may lie: at its place below the weights root, or where the loader looks for it as well."""

import json
import zipfile
from pathlib import Path

from weights.manifest import WeightsError

PICKLES = (".bin", ".pt", ".pth")

NETWORKS = ("diffusion_pytorch_model", "model")
"""What diffusers and transformers call the weights in a network's own folder."""


def place_of(path: Path) -> Path:
    """The file that the loader takes for `path`, in its order of preference; `path` itself when there is none.

    - for a pickle, the same name as .safetensors: its conversion;
    - for a network in the folder `sdxl/unet`, `sdxl.safetensors`: a base in one file; then the index of its shards;
      then its name with `.fp16` and without.
    """
    stem = path.name.removesuffix(".safetensors").removesuffix(".fp16")
    candidates: list[Path] = []
    if path.suffix in PICKLES:
        candidates = [path.with_suffix(".safetensors")]
    elif stem in NETWORKS:
        single = path.parents[1].with_name(f"{path.parents[1].name}.safetensors")
        shards = sorted(path.parent.glob(f"{stem}*.index*.json"))
        candidates = [single, *shards, *(path.with_name(stem + end) for end in (".fp16.safetensors", ".safetensors"))]
    return next((one for one in candidates if one.is_file()), path)


def source_of(path: Path) -> Path:
    """A pickle itself while it is there, whatever was made of it; else what the loader takes."""
    return path if path.suffix in PICKLES and path.is_file() else place_of(path)


def shards_of(index: Path) -> list[str]:
    """The names of the files that an index of shards names. Raises WeightsError when it is no such index."""
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of shards ({error!r}): download it again") from error


def missing_shards(index: Path) -> list[str]:
    """Names in a shard index of files that are not beside it. Raises WeightsError when it is no such index."""
    return [name for name in shards_of(index) if not (index.parent / name).is_file()]


def is_whole_pickle(path: Path) -> bool:
    """Whether it ends as it begins: PyTorch's zip has its table at the end; older pickles cannot be judged."""
    with path.open("rb") as stream:
        start = stream.read(2)
    return zipfile.is_zipfile(path) if start == b"PK" else start[:1] == b"\x80"
