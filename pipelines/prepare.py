"""Program: `python -m pipelines.prepare FOLDER` writes every pickle below FOLDER again as safetensors, beside it.

The loader then reads the copy, which is mapped instead of unpickled; the pickles can be deleted. JSON comes out.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pipelines.checkpoint import PICKLES, read_tensors
from pipelines.errors import LoadError


def convert_pickles(folder: Path) -> list[Path]:
    """The copies that were written; a pickle that has one already is left alone. Raises LoadError naming a file."""
    pickles = sorted(file for file in folder.rglob("*") if file.suffix in PICKLES)
    return [convert(file) for file in pickles if not file.with_suffix(".safetensors").exists()]


def convert(file: Path) -> Path:
    """Write one pickle's tensors, unchanged, under flat names (``ip_adapter.1.to_k_ip.weight``); the copy's path."""
    target = file.with_suffix(".safetensors")
    unfinished = target.with_suffix(".unfinished")
    try:
        save_file(flat(read_tensors(file)), unfinished, metadata={"format": "pt"})
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Nested sections as dotted names; every tensor with storage of its own, as safetensors wants it."""
    tensors = {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        tensors |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value.clone().contiguous()}
    return tensors


def main() -> None:
    """Convert and report."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipelines.prepare FOLDER")
    try:
        written = convert_pickles(Path(sys.argv[1]))
    except (LoadError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps({"written": [str(path) for path in written]}) + "\n")


if __name__ == "__main__":
    main()
