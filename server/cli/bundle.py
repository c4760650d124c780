"""bundle, weights bundle, install; add-base, remove-base: how weights and the application come to a sealed machine."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.options import DataDir
from server.cli.pull import bar
from server.cli.screen import console
from server.cli.weights import weights
from server.settings import read_settings
from weights.archive import opened
from weights.bases import add, forget, size_of
from weights.bundle import Bundle, index_of, sources_of, unknown_bytes, write_bundle
from weights.install import install as install_bundle
from weights.install import rollback as roll_back
from weights.manifest import MANIFEST, WeightsError
from weights.store import tiny_root

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
DEFAULT_WHEELHOUSE = Path("wheelhouse")
INSTALLER = "install.sh"

app = typer.Typer()

File = Annotated[Path, typer.Argument(help="The bundle; with --split its parts are FILE.001, FILE.002 …")]
Split = Annotated[
    str, typer.Option(help="Largest part, e.g. 4G: FAT disks hold no larger file. K, M, G are powers of 1000.")
]
Profile = Annotated[
    Literal["full", "tiny"],
    typer.Option(
        "--weights", help="full, or tiny: the embedded random weights, to rehearse the journey with a few MB."
    ),
]


@weights.command("bundle")
def bundle_weights(file: File, split: Split = "", profile: Profile = "full", data_dir: DataDir = None) -> None:
    """Write the weights, their lock, licences and checksums into FILE, for `veraicon weights install` elsewhere."""
    tell(make(file, split, profile, data_dir, None))
    console.print(f"On the other machine: `veraicon weights install {file.name} --sha256 SHA256`")


@app.command("bundle")
def bundle_application(
    file: File,
    everything: Annotated[bool, typer.Option("--all", help="Also the application and its wheels.")] = False,
    split: Split = "",
    wheelhouse: Annotated[Path, typer.Option(help="Folder of wheels, from `make wheelhouse`.")] = DEFAULT_WHEELHOUSE,
    profile: Profile = "full",
    data_dir: DataDir = None,
) -> None:
    """Write the weights, and with --all also the application and its wheels, into FILE; install.sh comes beside it."""
    if not everything:
        bundle_weights(file, split, profile, data_dir)
        return
    tell(make(file, split, profile, data_dir, wheelhouse))
    installer = file.with_name(INSTALLER)
    shutil.copyfile(wheelhouse / INSTALLER, installer)
    installer.chmod(0o644)
    console.print(f"On the other machine: `sh {INSTALLER} {file.name} /opt/veraicon SHA256`")


def make(
    file: Path, split: str, profile: Literal["full", "tiny"], data_dir: Path | None, wheelhouse: Path | None
) -> Bundle:
    """Hash what nobody has hashed, then write; a bar for each."""
    settings, size = read_settings(data_dir=data_dir), bytes_of(split)
    root = tiny_root() if profile == "tiny" else settings.resolved_weights_dir
    sources = sources_of(root, wheelhouse, settings.weights_manifest or MANIFEST)
    with counting("Reading", unknown_bytes(sources)) as on_bytes:
        index = index_of(sources, version("veraicon"), profile, on_bytes)
    with counting("Writing", index.size) as on_bytes:
        return write_bundle(file, sources, index, size, on_bytes)


def tell(bundle: Bundle) -> None:
    first, last = bundle.parts[0], bundle.parts[-1]
    name = f"{first}" if first == last else f"{first} to {last.name}"
    console.print(f"{name}: {len(bundle.index.members)} files, {bundle.index.size / 1e9:.2f} GB")
    console.print(f"index sha256 {bundle.sha256}")
    console.print("Send this number another way than the bundle: `install` compares it.")


@weights.command("install")
def install(
    file: Annotated[Path | None, typer.Argument(help="The bundle; of parts the name without .001.")] = None,
    sha256: Annotated[str, typer.Option(help="Of the index, as `bundle` printed it: another bundle is refused.")] = "",
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the weights before the last install.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Check a bundle wholly, then put its weights in place of the present ones, which are kept for --rollback."""
    settings = read_settings(data_dir=data_dir)
    root, manifest = settings.resolved_weights_dir, settings.weights_manifest or MANIFEST
    if rollback == (file is not None):
        raise typer.BadParameter("give either a bundle or --rollback")
    if file is None:
        roll_back(root)
        console.print(f"{root.absolute()} holds the weights before the last install again. Restart the server.")
        return
    with opened(file) as archive:
        console.print(f"index sha256 {archive.sha256}")
        archive.require(sha256)
        with counting("Checking and copying", archive.index.size) as on_bytes:
            note = install_bundle(archive, root, version("veraicon"), on_bytes, manifest)
    console.print(f"{root.absolute()} holds the {note.profile} weights of {file}. Restart the server if it runs.")
    if note.profile == "tiny":
        console.print(f"A rehearsal: `veraicon serve --weights {root}`")
    console.print("To go back to the weights before: `veraicon weights install --rollback`")


@weights.command("add-base")
def add_base(
    name: Annotated[str, typer.Argument(help="What requests write into model_name.")],
    file: Annotated[Path, typer.Argument(help="One .safetensors file, or a diffusers folder.")],
    link: Annotated[bool, typer.Option("--link", help="Link instead of copying; on the same disk only.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Register a checkpoint of your own, for requests to choose by model_name, after a look at its names and shapes."""
    root = read_settings(data_dir=data_dir).resolved_weights_dir
    with counting("Linking" if link else "Copying", size_of(file)) as on_bytes:
        target = add(name, file, root, link=link, check=fits, on_bytes=on_bytes)
    console.print(f"{target} is there: restart the server, then requests may say model_name={name!r}.")
    console.print("Its licence is not known to Veraicon: make sure that it allows what you do with it.")


@weights.command("remove-base")
def remove_base(
    name: Annotated[str, typer.Argument(help="As requests write it into model_name.")], data_dir: DataDir = None
) -> None:
    """Delete a checkpoint of your own from the weights folder, and forget it."""
    forget(name, read_settings(data_dir=data_dir).resolved_weights_dir)
    console.print(f"{name} is gone: restart the server, then requests that name it are answered 422.")


def fits(root: Path, name: str) -> None:
    """Whether a base has the right shapes. A program of its own looks, for it takes torch. Raises WeightsError."""
    program = [sys.executable, "-m", "pipelines.bases", str(root), name]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WeightsError(done.stderr.strip() or f"`python -m pipelines.bases` ended with {done.returncode}")


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes, on terminals."""
    with bar(console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def bytes_of(text: str) -> int:
    """``"4G"`` -> 4000000000; 0 for no split. Raises typer.BadParameter."""
    if not text:
        return 0
    match = re.fullmatch(r"(\d+)([KMG])", text.upper())
    if not match or int(match[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no size; say for example 4G or 500M", param_hint="--split")
    return int(match[1]) * UNITS[match[2]]
