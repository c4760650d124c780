"""Program: `python -m pipelines.bases ROOT NAME` looks whether a base fits, reading no data.

ROOT is the weights root with the default base in it; the one to look at is NAME or NAME.safetensors in its folder of
bases. What does not fit is said on standard error, with status 1.
"""

import sys
from pathlib import Path

from pipelines.errors import LoadError
from pipelines.instantid.bases import read_base
from pipelines.instantid.endpoint import INSTANTID_LCM
from pipelines.profile import Profile
from pipelines.shelf import Shelf


def main() -> None:
    """Look."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m pipelines.bases ROOT NAME")
    folder = Path(sys.argv[1]) / INSTANTID_LCM.folder
    try:
        read_base(folder, sys.argv[2], Profile(device="meta"), "fused", Shelf())
    except (LoadError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
