"""The licences of everything that Veraicon needs but did not write, as LICENCES.md and `veraicon weights` show them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date

from weights.lock import Lock
from weights.manifest import Checkpoint

ORDER = ("no", "unclear", "yes")

INTRODUCTION = """\
# Licences

Veraicon's own code is under the Apache License 2.0 (`LICENSE`). It ships **no trained weights**: you download them
yourself, under their owners' terms. Some of them **do not allow commercial use**, and one of these (antelopev2) cannot
be replaced, because both models were trained on it. fal labels its endpoints by its own arrangements with the owners;
those do not carry over to you.

This page is our reading of public pages, not legal advice. Read each licence before you download."""

SHIPPED = """\
## What is in the repository

| what | where | licence |
|---|---|---|
| tiny weights: random numbers in the real files' layouts | `weights/tiny/` | Apache-2.0, ours |
| key and shape lists of the real checkpoints | `weights/shapes/` | facts, ours |
| recorded outputs of InstantID's and PuLID's published code on tiny weights | `tests/golden/` | Apache-2.0 |
| photo of Eileen Collins | `scripts/data/astronaut.png` | NASA, public domain |
| photo of a coffee cup | `tests/data/coffee.png` | Rachel Michetti, CC0 |
| photo of a cat | `tests/data/chelsea.png` | Stefan van der Walt, CC0 |
| photo of a rocket launch | `tests/data/rocket.jpg` | SpaceX, public domain |
| a skin-colour detector without trained weights | `tests/data/det_skinblob.onnx` | Apache-2.0, ours |

The tiny profile finds faces with the Haar cascades inside the package opencv-python-headless (Apache-2.0; the
cascades' own notices are in their files)."""


def table(checkpoints: Iterable[Checkpoint]) -> list[tuple[str, str, str, str, str]]:
    """Rows (name, title, licence, commercial use, reason), non-commercial ones first."""
    ordered = sorted(checkpoints, key=lambda checkpoint: ORDER.index(checkpoint.commercial_use))
    return [(one.name, one.title, one.licence, one.commercial_use, one.reason) for one in ordered]


def render(manifest: Mapping[str, Checkpoint]) -> str:
    """LICENCES.md."""
    rows = [
        f"| {name} | [{title}]({manifest[name].page}) | {licence} | **{use}** | {reason} |"
        for name, title, licence, use, reason in table(manifest.values())
    ]
    head = ["| checkpoint | what | licence | commercial use | why |", "|---|---|---|---|---|"]
    weights = "\n".join(["## Weights that you download", "", *head, *rows])
    return "\n\n".join([INTRODUCTION, weights, alternatives(manifest), SHIPPED]) + "\n"


def alternatives(manifest: Mapping[str, Checkpoint]) -> str:
    """What those may take instead who may not use a checkpoint."""
    rows = [f"| {name} | {one.alternatives} |" for name, one in manifest.items() if one.alternatives]
    return "\n".join(["## Instead", "", "| checkpoint | what else there is |", "|---|---|", *rows])


def unaccepted(checkpoints: Iterable[Checkpoint], lock: Lock) -> list[Checkpoint]:
    """Those whose licence nobody has accepted in this weights folder yet."""
    return [one for one in checkpoints if one.name not in lock.licences]


def accept(lock: Lock, checkpoints: Iterable[Checkpoint], day: date) -> Lock:
    """The lock that remembers that somebody accepted these licences on that day."""
    return replace(lock, licences={**lock.licences, **{one.name: day.isoformat() for one in checkpoints}})
