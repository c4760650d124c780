"""Write stand-ins for the real checkpoints: true names, layouts, headers, sizes; zeros that take no room on the disk.

    python -m scripts.make_stand_ins FOLDER [--only instantid|pulid]

They prove that the code reads the real layouts without the real files. Tokenizers and schedulers are those of the tiny
weights; the face models are holes of the right length, which onnxruntime cannot open.
"""

import argparse
import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from weights.manifest import File, read_manifest
from weights.store import Shapes, read_shapes, tiny_root

SIZES = json.loads((Path(__file__).parent / "data" / "real_sizes.json").read_text())
"""What the real networks' config.json say other than the tiny ones'."""

WIDTHS = {"float16": ("F16", 2), "float32": ("F32", 4), "int64": ("I64", 8)}
SECTIONS = ("image_proj", "ip_adapter")
"""The two dictionaries inside InstantID's pickle."""


def make_stand_ins(root: Path, only: str = "") -> int:
    """Write every file of the manifest below `root`, or those of one model and the faces; how many there are."""
    files = [file for checkpoint in read_manifest().values() for file in checkpoint.files]
    wanted = [file for file in files if file.target.split("/")[0] in {only or file.target.split("/")[0], "antelopev2"}]
    for file in wanted:
        path = root / file.target
        path.parent.mkdir(parents=True, exist_ok=True)
        writer_of(file)(path, file)
    return len(wanted)


def writer_of(file: File) -> Callable[[Path, File], None]:
    """How a file of this kind is written."""
    suffix = Path(file.target).suffix
    if suffix == ".safetensors":
        return lambda path, file: write_safetensors(path, shapes_of(file))
    if suffix in {".bin", ".pt", ".pth"}:
        return lambda path, file: write_pickle(path, shapes_of(file))
    return write_hole if suffix == ".onnx" else write_config


def shapes_of(file: File) -> Shapes:
    """The recorded list, in float16 for the files that say so in their name."""
    half = ".fp16." in file.path
    return {key: (shape, "float16" if half else dtype) for key, (shape, dtype) in read_shapes(file.shapes).items()}


def write_safetensors(path: Path, shapes: Shapes) -> None:
    """A true header, then a hole as long as the data."""
    header, end = {}, 0
    for key, (shape, dtype) in shapes.items():
        name, width = WIDTHS[dtype]
        start, end = end, end + width * math.prod(shape)
        header[key] = {"dtype": name, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(stream.tell() + end)


def write_pickle(path: Path, shapes: Shapes) -> None:
    """PyTorch's zip with holes for the data; memory that is never touched is never there."""
    tensors = {key: torch.empty(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in shapes.items()}
    with torch.serialization.skip_data():
        torch.save(nested(tensors), path)


def nested(tensors: dict[str, Tensor]) -> dict[str, Tensor] | dict[str, dict[str, Tensor]]:
    """InstantID's adapter in its two sections; others as they are."""
    sections = {
        name: {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        for name in SECTIONS
    }
    return sections if all(sections.values()) else tensors


def write_hole(path: Path, file: File) -> None:
    """Nothing, of the recorded length."""
    with path.open("wb") as stream:
        stream.truncate(file.size)


def write_config(path: Path, file: File) -> None:
    """The tiny file, with the real sizes where it describes a network."""
    source = tiny_root() / file.target
    kind = kind_of(path.parent.name) if path.name == "config.json" else ""
    if not kind:
        shutil.copyfile(source, path)
        return
    path.write_text(json.dumps(json.loads(source.read_text()) | SIZES[kind], indent=2))


def kind_of(folder: str) -> str:
    """Which of SIZES describes the network in this folder."""
    if folder in SIZES:
        return folder
    return "controlnet_small" if folder.endswith("-small") else "controlnet"


def main() -> None:
    """Write them and say how much room they take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("instantid", "pulid"), default="")
    options = parser.parse_args()
    count = make_stand_ins(options.folder, options.only)
    sizes = [path.stat() for path in options.folder.rglob("*") if path.is_file()]
    apparent, real = sum(s.st_size for s in sizes) / 1e9, sum(s.st_blocks for s in sizes) * 512 / 1e6
    print(f"{count} files in {options.folder}: {apparent:.1f} GB to look at, {real:.1f} MB on the disk")


if __name__ == "__main__":
    main()
