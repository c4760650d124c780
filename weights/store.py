"""What lies below the weights root: is it all there, and does it have the shapes that the pipelines expect."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.manifest import Checkpoint, File, WeightsError, read_manifest, select
from weights.places import PICKLES, is_whole_pickle, missing_shards, place_of

SHAPES = Path(__file__).with_name("shapes")
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit

OBSOLETE = "position_ids"
"""A table 0..76 that older text encoders saved; the loader passes over it."""

Shapes = dict[str, tuple[list[int], str]]
"""Tensor name -> (shape, dtype)."""


@dataclass(frozen=True)
class Missing:
    """A file that is not there, not whole, or not the right one; `problem` says which."""

    checkpoint: Checkpoint
    file: File
    problem: str


def tiny_root() -> Path:
    """The embedded random weights in the layout of the real ones: pictures made with them are noise by nature."""
    return Path(__file__).with_name("tiny")


def missing(names: Iterable[str], root: Path) -> list[Missing]:
    """What the named checkpoints lack below `root`: absent files, and files of the wrong size.

    Raises:
        WeightsError: an unknown checkpoint name.
    """
    return [
        Missing(checkpoint, file, problem)
        for checkpoint in select(names, read_manifest())
        for file in checkpoint.files
        if (problem := _problem(root / file.target, file))
    ]


def misfits(names: Iterable[str], root: Path) -> list[Missing]:
    """Files of the named checkpoints that are there, but whose headers are not those of the real ones.

    Pickles, shards and a base in one file are judged when they are loaded.

    Raises:
        WeightsError: an unknown checkpoint name.
    """
    return [
        Missing(checkpoint, file, problem)
        for checkpoint in select(names, read_manifest())
        for file in checkpoint.files
        if file.shapes and (problem := _misfit(root / file.target, file))
    ]


def check_hash(path: Path, file: File) -> None:
    """Compare `path` with the recorded sha256, where there is one. Raises WeightsError."""
    if not file.sha256:
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.sha256:
        raise WeightsError(f"{path} has sha256 {digest}, expected {file.sha256}: download it again")


def read_shapes(name: str) -> Shapes:
    """The recorded key/shape list of a real checkpoint, e.g. ``"sdxl_unet"``."""
    return {key: (shape, dtype) for key, (shape, dtype) in json.loads((SHAPES / f"{name}.json").read_text()).items()}


def check_shapes(path: Path, manifest: Shapes) -> None:
    """Compare a safetensors file's header with a key/shape list, reading no tensor.

    Precision is not compared: a checkpoint may be kept in float16 or float32, the loader casts.

    Raises:
        WeightsError: the file is cut short, or names and shapes differ; the message shows the first differences.
    """
    header, expected_size = read_header(path)
    if (size := path.stat().st_size) != expected_size:
        raise WeightsError(f"{path} is {size} bytes, its header promises {expected_size}: download it again")
    differences = [
        *(f"{key} is missing" for key in manifest if key not in header),
        *(f"{key} is unexpected" for key in header if key not in manifest and not key.endswith(OBSOLETE)),
        *(
            f"{key} has shape {header[key]['shape']}, expected {shape}"
            for key, (shape, _) in manifest.items()
            if key in header and header[key]["shape"] != shape
        ),
    ]
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise WeightsError(
            f"{path} is another model than expected: {'; '.join(differences[:5])}{more}. "
            "`veraicon weights list` names the file that belongs here."
        )


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's entries (dtype, shape, data_offsets) and the file size that they imply.

    Raises:
        WeightsError: the file does not begin like safetensors.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > MOST_HEADER_BYTES:
                raise ValueError(f"header of {length} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return header, 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}): download it again") from error


def _problem(path: Path, file: File) -> str:
    """What is wrong with the file that stands for `path`, or ""."""
    place = place_of(path)
    if not place.is_file():
        return "is missing"
    try:
        if ".index." in place.name:
            lacking = missing_shards(place)
            return f"lacks {', '.join(lacking)}, which {place.name} names" if lacking else ""
        expected = read_header(place)[1] if place.suffix == ".safetensors" else file.size
    except WeightsError as error:
        return str(error)
    size = place.stat().st_size
    if expected is not None and size != expected:
        return f"is {size} bytes, expected {expected}: download it again"
    if place.suffix in PICKLES and size and not is_whole_pickle(place):
        return "is no PyTorch file, or was cut short: download it again"
    return "is empty" if size == 0 else ""


def _misfit(path: Path, file: File) -> str:
    """How the header of the file that stands for `path` differs from the recorded one, or ""."""
    place = place_of(path)
    comparable = place.is_file() and place.suffix == ".safetensors" and place.parent == path.parent
    if not comparable or _problem(path, file):
        return ""
    try:
        check_shapes(place, read_shapes(file.shapes))
    except WeightsError as error:
        return str(error)
    return ""
