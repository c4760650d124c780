"""What lies below the weights root: is it all there, and does it have the shapes that the pipelines expect."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.lock import Locked, read_lock
from weights.manifest import Checkpoint, File, WeightsError, read_manifest, select
from weights.places import PICKLES, is_whole_pickle, missing_shards, place_of, shards_of, source_of

SHAPES = Path(__file__).with_name("shapes")
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
WIDTHS = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2},
    **{"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8},
}
"""Bytes of one number, by safetensors' names."""

AGAIN = "`veraicon weights verify --repair` downloads it again"
Manifest = Mapping[str, Checkpoint]

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


def missing(names: Iterable[str], root: Path, manifest: Manifest | None = None) -> list[Missing]:
    """What the named checkpoints lack below `root`: absent files, files of the wrong size, and links out of it.

    Raises:
        WeightsError: an unknown checkpoint name, or a lock that cannot be read.
    """
    locked = read_lock(root).files
    return [
        Missing(checkpoint, file, problem)
        for checkpoint in select(names, manifest or read_manifest())
        for file in checkpoint.files
        if (problem := _problem(root, file, locked.get(file.target)))
    ]


def misfits(names: Iterable[str], root: Path, manifest: Manifest | None = None) -> list[Missing]:
    """Files of the named checkpoints that are there, but whose headers are not those of the real ones.

    Pickles, shards and a base in one file are judged when they are loaded.

    Raises:
        WeightsError: an unknown checkpoint name.
    """
    return [
        Missing(checkpoint, file, problem)
        for checkpoint in select(names, manifest or read_manifest())
        for file in checkpoint.files
        if file.shapes and (problem := _misfit(root, file))
    ]


def check_hash(path: Path, file: File) -> None:
    """Compare `path` with the recorded sha256, where there is one. Raises WeightsError."""
    if file.sha256 and (digest := sha256_of(path)) != file.sha256:
        raise WeightsError(f"{path} has sha256 {digest}, expected {file.sha256}: download it again")


def sha256_of(path: Path) -> str:
    """In hex; reads all of the file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
        WeightsError: the file does not begin like safetensors, or its tensors overlap, leave gaps or have other sizes
            than their shapes.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > MOST_HEADER_BYTES:
                raise ValueError(f"it announces a header of {length} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return header, 8 + length + _end_of(header)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}): download it again") from error


def broken(path: Path, kind: str = "") -> str:
    """What is wrong with a file by itself, whichever it is; "" when nothing can be seen without reading all of it.

    Args:
        kind: its suffix, where its name has another one for now.
    """
    kind = kind or path.suffix
    try:
        expected = read_header(path)[1] if kind == ".safetensors" else None
    except WeightsError as error:
        return str(error)
    size = path.stat().st_size
    if expected is not None and size != expected:
        return f"is {size} bytes, its header promises {expected}: download it again"
    if kind in PICKLES and size and not is_whole_pickle(path):
        return "is no PyTorch file, or was cut short: download it again"
    return "is empty" if size == 0 else ""


def _end_of(header: Mapping[str, Any]) -> int:
    """Bytes of data, when the tensors follow each other without gap. Raises ValueError naming one that does not."""
    end = 0
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if begin != end:
            raise ValueError(f"{key} begins at {begin}, where {end} was due: tensors overlap or leave a gap")
        width = WIDTHS.get(entry["dtype"])
        if width and stop - begin != width * math.prod(entry["shape"]):
            raise ValueError(f"{key} has {stop - begin} bytes, too few or too many for {entry['shape']}")
        end = stop
    return end


def _problem(root: Path, file: File, locked: Locked | None) -> str:
    """What is wrong with the file that stands for a target, or ""."""
    place = source_of(root / file.target)
    if not place.is_file():
        return "is missing" + _beside(place)
    if not place.resolve().is_relative_to(root.resolve()):
        return f"is a link to {place.resolve()}, outside the weights folder: put the file itself here"
    if ".index." in place.name:
        return _lacking_shards(place)
    if problem := broken(place):
        return problem
    size, exact = place.stat().st_size, place == root / file.target
    if exact and locked and locked.known != "local" and size != locked.size:
        return f"is {size} bytes, weights.lock says {locked.size}: {AGAIN}"
    if exact and not locked and file.size is not None and size != file.size:
        return f"is {size} bytes, expected {file.size}: download it again"
    return ""


def _beside(place: Path) -> str:
    """What lies there in a form that is never read, for the message."""
    others = [place.with_suffix(end) for end in (*PICKLES, ".ckpt") if place.with_suffix(end).is_file()]
    return f"; {others[0].name} lies there, a pickle that this server does not read" if others else ""


def _lacking_shards(index: Path) -> str:
    try:
        lacking = missing_shards(index)
    except WeightsError as error:
        return str(error)
    if lacking:
        return f"lacks {', '.join(lacking)}, which {index.name} names"
    told = ((name, broken(index.parent / name)) for name in shards_of(index))
    return next((f"has a shard {name} that {problem}" for name, problem in told if problem), "")


def _misfit(root: Path, file: File) -> str:
    """How the header of the file that stands for a target differs from the recorded one, or ""."""
    path = root / file.target
    place = place_of(path)
    comparable = place.is_file() and place.suffix == ".safetensors" and place.parent == path.parent
    if not comparable or _problem(root, file, None):
        return ""
    try:
        check_shapes(place, read_shapes(file.shapes))
    except WeightsError as error:
        return str(error)
    return ""
