"""Reads manifest.toml: which bytes each checkpoint is made of, where they come from and where they go."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

MANIFEST = Path(__file__).with_name("manifest.toml")
HUB = "https://huggingface.co"

CommercialUse = Literal["yes", "no", "unclear"]


class WeightsError(Exception):
    """Weights are not what they should be; the message names the file and what to do."""


@dataclass(frozen=True)
class File:
    """One file of a checkpoint.

    Args:
        path: inside the repository. target: below the weights root, with forward slashes.
        size: exact bytes where known. about_mb: rough size in megabytes, for planning the disk.
        sha256: hex, or "" where it is not known for certain: then the hub's own word is taken, and pinned in the lock.
        shapes: name of the key/shape list in weights/shapes/, or "".
        mirrors: other addresses of the same bytes, tried in turn. `https://host/pack.zip#NAME` is the one file called
            NAME in an archive, in whichever folder.
        prepared: target of the file that stands for this one while serving (`veraicon weights prepare`), or "".

    Raises:
        WeightsError: the target leads out of the weights root.
    """

    path: str
    target: str
    size: int | None = None
    about_mb: int = 0
    sha256: str = ""
    shapes: str = ""
    mirrors: tuple[str, ...] = ()
    prepared: str = ""

    def __post_init__(self) -> None:
        for target in (self.target, self.prepared):
            place = PurePosixPath(target)
            if place.is_absolute() or ".." in place.parts:
                raise WeightsError(
                    f"the manifest puts {self.path} at {target}, outside the weights folder: mend it there"
                )

    @property
    def megabytes(self) -> int:
        """Size for display; 0 for small files whose size is not recorded."""
        return round(self.size / 1e6) if self.size else self.about_mb


@dataclass(frozen=True)
class Checkpoint:
    """A named set of files under one licence.

    Args:
        source: ``"hub"`` (Hugging Face), ``"github-release"`` (then the revision is the release's tag) or ``"url"``
            (then the repository is the address that every path is appended to, https:// or file://).
        revision: "" for the default branch.
        commercial_use: our reading of the licence, `reason` says why; not legal advice.
        alternatives: what those may take instead who may not use this one.
    """

    name: str
    title: str
    source: Literal["hub", "github-release", "url"]
    repository: str
    revision: str
    licence: str
    commercial_use: CommercialUse
    reason: str
    files: tuple[File, ...]
    notes: str = ""
    alternatives: str = ""

    @property
    def page(self) -> str:
        """Where a person reads about it."""
        if self.source == "github-release":
            return f"https://github.com/{self.repository}/releases/tag/{self.revision}"
        return self.repository if self.source == "url" else f"{HUB}/{self.repository}"

    def url(self, file: File, hub: str = HUB, revision: str = "") -> str:
        """Where `file` is downloaded from; `revision` of a hub's repository instead of the manifest's."""
        if self.source == "url":
            return f"{self.repository}/{file.path}"
        if self.source == "github-release":
            return f"https://github.com/{self.repository}/releases/download/{self.revision}/{file.path}"
        return f"{hub}/{self.repository}/resolve/{revision or self.revision or 'main'}/{file.path}"


def read_manifest(path: Path | None = None) -> dict[str, Checkpoint]:
    """Every checkpoint by name, in the manifest's order; `path` is a manifest in place of ours.

    Raises:
        WeightsError: naming the manifest, and what cannot be understood in it.
    """
    path = path or MANIFEST
    try:
        return {name: _checkpoint(name, table) for name, table in tomllib.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path} is no manifest of weights: {error}. docs/weights.md shows one") from error


def select(names: Iterable[str], manifest: Mapping[str, Checkpoint]) -> list[Checkpoint]:
    """The named checkpoints, each once, in the order given. Raises WeightsError for an unknown name."""
    unknown = sorted(set(names := list(names)) - manifest.keys())
    if unknown:
        raise WeightsError(f"no checkpoint is called {', '.join(unknown)}; there are: {', '.join(manifest)}")
    return [manifest[name] for name in dict.fromkeys(names)]


def _checkpoint(name: str, table: dict[str, Any]) -> Checkpoint:
    files = tuple(File(**{**file, "mirrors": tuple(file.get("mirrors", ()))}) for file in table["files"])
    return Checkpoint(name=name, **{**table, "files": files})
