"""Replays the recorded PuLID cases from their request-level inputs (format: tests/golden/pulid/index.json)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from pipelines.faces.analysis import Face
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline
from scripts.replay_result import Result

PROFILE = Profile(device="cpu", dtype="float32")


class RecordedFaces:
    """A face analyser that answers what upstream's detectors found in the recorded photos.

    A photo's index travels as the size of the image that stands for it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def photo(self, index: int) -> Image.Image:
        return Image.new("RGB", (index + 1, 1))

    def largest(self, image: Image.Image, retry: bool = True) -> Face:
        nothing = np.zeros((5, 2), np.float32)
        return Face(np.zeros(4, np.float32), nothing, 1.0, self.record(image)["arcface"][0].numpy())

    def crop(self, image: Image.Image, face: Face) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.record(image)["aligned_bgr"].numpy()[:, :, ::-1])

    def record(self, image: Image.Image) -> dict[str, Any]:
        return load_file(self.folder / f"ref{image.width - 1}.safetensors")


def replay(
    weights: Path,
    cases: Path,
    profile: Profile = PROFILE,
    kind: type[PuLIDPipeline] = PuLIDPipeline,
    only: Callable[[dict[str, Any]], bool] = lambda case: True,
) -> Iterator[Result]:
    """Run every case of ``cases/index.json`` through the pipeline that the worker uses.

    Args:
        kind: what stands in the pipeline's place. only: which cases.
    """
    folder = cases / "cases" if (cases / "cases").is_dir() else cases
    faces = RecordedFaces(folder)
    pipeline = kind.load(weights, profile, faces=faces)
    for case in filter(only, json.loads((cases / "index.json").read_text())["cases"]):
        try:
            yield run_case(pipeline, faces, case, folder)
        except Exception as error:  # one case that cannot run must not hide the others
            yield Result(case["name"], float("inf"), float("inf"), f"{type(error).__name__}: {error}")


def run_case(pipeline: PuLIDPipeline, faces: RecordedFaces, case: dict[str, Any], folder: Path) -> Result:
    params = case["params"]
    request = PuLIDRequest(
        prompt=params["prompt"],
        negative_prompt=params["neg"],
        num_images=params["n"],
        guidance_scale=params["scale"],
        num_inference_steps=params["steps"],
        seed=params["seed"],
        width=params["W"],
        height=params["H"],
        id_scale=params["id_scale"],
        mode=params["mode"],
        id_mix=params["id_mix"],
    )
    prepared = pipeline.prepare(request, [faces.photo(index) for index in params["refs"] or ()])
    (pictures,) = pipeline.generate([prepared], lambda step, total: False, output_type="raw")
    golden = load_file(folder / Path(case["file"]).name)
    latents, image = golden["final_latents"].numpy(), golden["image"].numpy()
    ours = np.stack([picture.latents.cpu().numpy() for picture in pictures])
    drawn = np.stack([picture.image.cpu().numpy() for picture in pictures])
    return Result(
        case["name"],
        float(abs(ours - latents).max() / abs(latents).max()),
        float(abs(drawn - image).max()),
        latents_norm=float(np.linalg.norm(ours - latents) / np.linalg.norm(latents)),
    )
