"""Reads manifest.toml: which bytes each checkpoint is made of, where they come from and where they go."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MANIFEST = Path(__file__).with_name("manifest.toml")

CommercialUse = Literal["yes", "no", "unclear"]


class WeightsError(Exception):
    """Weights are not what they should be; the message names the file and what to do."""


@dataclass(frozen=True)
class File:
    """One file of a checkpoint.

    Args:
        path: inside the repository. target: below the weights root, with forward slashes.
        size: exact bytes where known. about_mb: rough size in megabytes, for planning the disk.
        sha256: hex, or "" where it is not known for certain.
        shapes: name of the key/shape list in weights/shapes/, or "".
    """

    path: str
    target: str
    size: int | None = None
    about_mb: int = 0
    sha256: str = ""
    shapes: str = ""

    @property
    def megabytes(self) -> int:
        """Size for display; 0 for small files whose size is not recorded."""
        return round(self.size / 1e6) if self.size else self.about_mb


@dataclass(frozen=True)
class Checkpoint:
    """A named set of files under one licence.

    Args:
        source: ``"hub"`` (Hugging Face) or ``"github-release"`` (then the revision is the release's tag).
        revision: "" for the default branch.
        commercial_use: our reading of the licence, `reason` says why; not legal advice.
    """

    name: str
    title: str
    source: Literal["hub", "github-release"]
    repository: str
    revision: str
    licence: str
    commercial_use: CommercialUse
    reason: str
    files: tuple[File, ...]
    notes: str = ""

    @property
    def page(self) -> str:
        """Where a person reads about it."""
        if self.source == "github-release":
            return f"https://github.com/{self.repository}/releases/tag/{self.revision}"
        return f"https://huggingface.co/{self.repository}"

    def url(self, file: File) -> str:
        """Where `file` is downloaded from."""
        if self.source == "github-release":
            return f"https://github.com/{self.repository}/releases/download/{self.revision}/{file.path}"
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision or 'main'}/{file.path}"


def read_manifest(path: Path = MANIFEST) -> dict[str, Checkpoint]:
    """Every checkpoint by name, in the manifest's order."""
    return {name: _checkpoint(name, table) for name, table in tomllib.loads(path.read_text("utf-8")).items()}


def select(names: Iterable[str], manifest: dict[str, Checkpoint]) -> list[Checkpoint]:
    """The named checkpoints, each once, in the order given. Raises WeightsError for an unknown name."""
    unknown = sorted(set(names := list(names)) - manifest.keys())
    if unknown:
        raise WeightsError(f"no checkpoint is called {', '.join(unknown)}; there are: {', '.join(manifest)}")
    return [manifest[name] for name in dict.fromkeys(names)]


def _checkpoint(name: str, table: dict[str, Any]) -> Checkpoint:
    files = tuple(File(**file) for file in table["files"])
    return Checkpoint(name=name, **{**table, "files": files})
