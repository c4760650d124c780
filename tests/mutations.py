"""One-line mistakes that the goldens must notice, and the program that makes each in a copy and replays a golden.

`python -m tests.mutations FOLDER` reads mutations from its input and prints one JSON line for each. A mutation is a
file, an exact text in it and a replacement; a text that does not occur exactly once is reported as stale.
"""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
GOLDEN, WEIGHTS = ROOT / "tests/golden", ROOT / "weights/tiny"
PACKAGES = ("pipelines", "scripts")


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in `file`; `golden` is the check that must notice: ``"model case"``, ``"edges"`` or
    ``"labels"``."""

    name: str
    golden: str
    file: str = ""
    old: str = ""
    new: str = ""


@dataclass(frozen=True)
class Outcome:
    """A golden's relative error under a mutation; `problem` says why it could not run."""

    name: str
    error: float = 0.0
    problem: str | None = None


def copy_mutated(mutation: Mutation, folder: Path) -> None:
    """The packages in `folder`, with the mutation. Raises ValueError when its text is not there exactly once."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    if mutation.file:
        source = (ROOT / mutation.file).read_text("utf-8")
        if (n := source.count(mutation.old)) != 1:
            raise ValueError(f"stale: {mutation.old!r} occurs {n} times in {mutation.file}; write the mutation anew")
        (folder / mutation.file).write_text(source.replace(mutation.old, mutation.new), "utf-8")


def use_copy(folder: Path) -> None:
    """Import `PACKAGES` from `folder` from now on; what they need from outside stays loaded."""
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    assert Path(importlib.import_module("pipelines").__file__ or "").is_relative_to(folder)


def case_of(model: str, name: str) -> dict[str, Any]:
    cases = json.loads((GOLDEN / model / "index.json").read_text())["cases"]
    return next(case for case in cases if case["name"] == name)


def replay_instantid(name: str) -> Any:
    replay = importlib.import_module("scripts.replay_instantid")
    case = case_of("instantid", name)
    pipeline = replay.InstantIDPipeline.load(WEIGHTS / "instantid", replay.PROFILE, faces=replay.RecordedFaces())
    with np.load(GOLDEN / "instantid" / case["file"]) as golden:
        return replay.run_case(pipeline, case, dict(golden)).latents_rel


def replay_pulid(name: str) -> Any:
    replay = importlib.import_module("scripts.replay_pulid")
    faces = replay.RecordedFaces(GOLDEN / "pulid/cases")
    profile = replay.Profile(device="cpu", dtype="float32")
    pipeline = replay.PuLIDPipeline.load(WEIGHTS / "pulid", profile, faces=faces)
    return replay.run_case(pipeline, faces, case_of("pulid", name), GOLDEN / "pulid/cases").latents_rel


def find_edges(_: str) -> Any:
    """The part of upstream's edge pixels that we do not find."""
    controls, pillow = (importlib.import_module(name) for name in ("pipelines.instantid.controls", "PIL.Image"))
    with np.load(GOLDEN / "instantid/cases/extras.npz") as units:
        ours, theirs = controls.canny(pillow.fromarray(units["canny_in_a"]))[:, :, 0], units["canny_out_a"]
    return (ours != theirs).sum() / (theirs > 0).sum()


def shown_labels(_: str) -> Any:
    """How many of the face parser's 19 labels are painted white where upstream shows them, or the other way round.

    The tiny face parser never finds hair, so a stand-in finds every label once (pulid.md §A5).
    """
    identity, torch = (importlib.import_module(name) for name in ("pipelines.pulid.identity", "torch"))
    labels = torch.arange(19)[None, None]
    shown = identity.face_only(lambda _: labels, torch.zeros(1, 3, 1, 19))[0, 0, 0] == 0
    theirs = torch.isin(labels[0, 0], torch.tensor([1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 17]))
    return (shown != theirs).sum()


CHECKS: dict[str, Callable[[str], Any]] = {
    "instantid": replay_instantid,
    "pulid": replay_pulid,
    "edges": find_edges,
    "labels": shown_labels,
}


def run(mutation: Mutation, folder: Path) -> Outcome:
    """Make the mutation in `folder`, which does not exist yet, and run its golden in this process."""
    try:
        copy_mutated(mutation, folder)
        use_copy(folder)
        check, _, case = mutation.golden.partition(" ")
        return Outcome(mutation.name, float(CHECKS[check](case)))
    except Exception as error:  # one mutation that cannot run must not hide the others
        return Outcome(mutation.name, problem=f"{type(error).__name__}: {error}")


def main(folder: Path, mutations: list[Mutation]) -> None:
    """Each mutation in a forked child, so that the heavy libraries are loaded once and no mutation meets another."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    for package in ("scripts.replay_instantid", "scripts.replay_pulid"):
        importlib.import_module(package)
    for i, mutation in enumerate(mutations):
        child = os.fork()
        if child == 0:
            print(json.dumps(asdict(run(mutation, folder / str(i)))), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        shutil.rmtree(folder / str(i))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Mutation(**row) for row in json.loads(sys.stdin.read())])
