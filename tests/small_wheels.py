"""Wheels of a few hundred bytes, so that a wheelhouse can be made and installed without network and in seconds."""

import hashlib
import site
import zipfile
from pathlib import Path


def write_wheel(folder: Path, name: str, files: dict[str, str]) -> Path:
    """`name`-1.0, pure Python, with these files."""
    info = f"{name}-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, *metadata, f"{info}/RECORD"])
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in {**files, **metadata, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return wheel


def write_lists(folder: Path) -> Path:
    """Wheels, and in `lists` the lists that name them. One of them lends this environment's libraries.

    The libraries come by a .pth file, which does not bring the checkout along: its own .pth file is not followed.
    """
    lists = folder / "lists"
    lists.mkdir(parents=True)
    libraries = write_wheel(folder, "libraries", {"libraries.pth": site.getsitepackages()[0] + "\n"})
    builder = write_wheel(folder, "builder", {"builder.py": ""})
    (lists / "cpu.txt").write_text("libraries==1.0\n")
    (lists / "cpu-cuda-torch.txt").write_text("libraries==1.0\n")
    for name, wheel in (("gpu", libraries), ("gpu-cu12", libraries), ("build", builder)):
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (lists / f"{name}.txt").write_text(f"{wheel.name.partition('-')[0]}==1.0 \\\n    --hash=sha256:{digest}\n")
    return lists
