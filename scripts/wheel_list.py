"""Program: `python -m scripts.wheel_list FOLDER LIST…` seals a wheelhouse: what is in it, with the hash of every file.

A LIST is named without .txt. Written into FOLDER: `libraries.txt` (without our own wheel) and `requirements.txt`,
for `--require-hashes`; `python` (the version that the wheels are for); and `SHA256SUMS` (every file, for sha256sum).
Wheels that no LIST names are removed.
"""

import hashlib
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

OWN = "veraicon"
SUMS = "SHA256SUMS"


def seal(folder: Path, lists: list[Path]) -> None:
    """Write the four files; SHA256SUMS last, so that a folder with one is complete."""
    (folder / SUMS).unlink(missing_ok=True)
    drop_old(folder, wanted(lists))
    (folder / "python").write_text(f"{sys.version_info.major}.{sys.version_info.minor}\n")
    wheels = sorted(folder.glob("*.whl"))
    own = [wheel for wheel in wheels if wheel.name.startswith(f"{OWN}-")]
    (folder / "libraries.txt").write_text("".join(requirement(wheel) for wheel in wheels if wheel not in own))
    (folder / "requirements.txt").write_text("-r libraries.txt\n" + "".join(requirement(wheel) for wheel in own))
    files = sorted(file for file in folder.iterdir() if file.is_file())
    (folder / SUMS).write_text("".join(f"{sha256(file)}  {file.name}\n" for file in files))


def wanted(lists: list[Path]) -> set[tuple[str, str]]:
    """(name, version) of every line; a hash stands on a line of its own."""
    lines = [line.partition(";")[0].rstrip("\\ ") for file in lists for line in file.read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line and not line.startswith((" ", "#"))]
    return {(pin.name, str(pin.specifier).removeprefix("==")) for pin in pins}


def drop_old(folder: Path, pins: set[tuple[str, str]]) -> None:
    """Remove the wheels of an earlier call that no list names any more."""
    for wheel in folder.glob("*.whl"):
        name, version, _, _ = parse_wheel_filename(wheel.name)
        if name != OWN and (name, version.public) not in pins:
            wheel.unlink()
            print(f"wheelhouse: {wheel.name} is in no list any more, removed")


def requirement(wheel: Path) -> str:
    """The line that allows this very file and no other."""
    name, version, _, _ = parse_wheel_filename(wheel.name)
    return f"{name}=={version} --hash=sha256:{sha256(wheel)}\n"


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    seal(Path(sys.argv[1]), [Path(f"{name}.txt") for name in sys.argv[2:]])
