"""SCRFD and ArcFace, timed where onnxruntime is installed and real files are at hand."""

import importlib.util
from pathlib import Path

from PIL import Image

from pipelines.faces.analysis import load_faces
from pipelines.profile import Profile
from scripts.gpu.clock import Clock
from scripts.gpu.networks import Kit
from scripts.gpu.rows import Row

PHOTO = Path(__file__).parents[2] / "pipelines" / "selftest.jpg"
"""The self test's, whose own module a bare machine cannot import."""

NEEDED = ("onnxruntime", "insightface")


def face_row(weights: Path, kit: Kit, clock: Clock) -> Row:
    """Finding and recognising the person in the self test's photo, by the host's clock: much of it is Python.

    Args:
        weights: the folder that holds antelopev2, as the setting weights_dir.

    Raises:
        RuntimeError: a package is missing, or nobody is found. LoadError: a file is missing or cannot be used.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise RuntimeError(f"{' and '.join(missing)} not installed: face detector and ArcFace were not timed")
    detector = "haar" if kit.size == "tiny" else "scrfd"
    faces = load_faces(weights / "antelopev2", Profile(device=kit.device, detector=detector))
    picture = Image.open(PHOTO).convert("RGB")
    if faces.largest(picture) is None:
        raise RuntimeError(f"the detector in {weights} finds nobody in the self test's photo: download it again")
    times = Clock("cpu", clock.runs, clock.warm).time(lambda: faces.largest(picture))
    return Row("faces", "onnxruntime", f"{detector} and ArcFace", "ms", times.median, times.p90, times.ms)
