"""Replays the recorded InstantID cases from their request-level inputs (format: tests/golden/instantid/index.json)."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.faces.analysis import Face
from pipelines.instantid.endpoint import Control, InstantIDRequest
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.instantid.prepared import InstantIDPrepared
from pipelines.instantid.styles import apply_style
from pipelines.profile import Profile
from pipelines.sdxl.text import Prompt, encode_texts
from scripts.replay_result import Result

PROFILE = Profile(device="cpu", dtype="float32")


class RecordedFaces:
    """A face analyser that answers what upstream was given in the case now at hand."""

    def __init__(self) -> None:
        self.case: Any = None

    def largest(self, image: Image.Image, retry: bool = True) -> Face:
        return Face(self.case["in_bbox"], self.case["in_kps"], 1.0, self.case["in_embedding"])

    def crop(self, image: Image.Image, face: Face) -> NDArray[np.uint8]:
        raise NotImplementedError("InstantID needs no aligned crop")


class SinglePipeline(InstantIDPipeline):
    """Upstream's first pipeline, recorded as ``single``: the text as 77 ordinary tokens, without weights."""

    def encode_prompt(self, prepared: Sequence[InstantIDPrepared]) -> Prompt:
        ((prompt, negative),) = (
            apply_style(p.request.style, p.request.prompt, p.request.negative_prompt) for p in prepared
        )
        texts = [negative, prompt] if prepared[0].guided else [prompt]
        return encode_texts((self.tokenizer, self.tokenizer_2), (self.text_encoder, self.text_encoder_2), texts)


def replay(
    weights: Path,
    cases: Path,
    profile: Profile = PROFILE,
    kind: type[InstantIDPipeline] = InstantIDPipeline,
    only: Callable[[dict[str, Any]], bool] = lambda case: True,
) -> Iterator[Result]:
    """Run every case of ``cases/index.json`` through the worker's own pipeline, loaded once per LoRA setting.

    Args:
        kind: what stands in the pipeline's place. only: which cases.
    """
    pipelines: dict[str, InstantIDPipeline] = {}
    for case in filter(only, json.loads((cases / "index.json").read_text())["cases"]):
        try:
            made = SinglePipeline if case["pipeline"] == "single" else kind
            key = f"{case['pipeline']} {case['lora']}"
            if key not in pipelines:
                pipelines[key] = made.load(weights, profile, faces=RecordedFaces(), lora=case["lora"])
            with np.load(find_case(cases, case["file"])) as golden:
                yield run_case(pipelines[key], case, dict(golden))
        except Exception as error:  # one case that cannot run must not hide the others
            yield Result(case["name"], float("inf"), float("inf"), f"{type(error).__name__}: {error}")


def find_case(cases: Path, file: str) -> Path:
    """A case's file, which is named from the folder of index.json or lies beside it, with or without ``cases/``."""
    name = Path(file).name
    return next((path for path in (cases / file, cases / "cases" / name) if path.exists()), cases / name)


def run_case(pipeline: InstantIDPipeline, case: dict[str, Any], golden: dict[str, NDArray[Any]]) -> Result:
    assert isinstance(pipeline.faces, RecordedFaces)
    pipeline.faces.case = golden
    prepared = pipeline.prepare(request_of(case, golden), [Image.fromarray(golden["in_face_image"])])
    ((picture,),) = pipeline.generate([prepared], lambda step, total: False, output_type="raw")
    latents, image = golden["latents"][0], golden["image"]
    drawn = (picture.image / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    error = picture.latents.cpu().numpy() - latents
    return Result(
        case["name"],
        float(abs(error).max() / abs(latents).max()),
        float(abs(drawn - image).max()),
        latents_norm=float(np.linalg.norm(error) / np.linalg.norm(latents)),
    )


def request_of(case: dict[str, Any], golden: dict[str, NDArray[Any]]) -> InstantIDRequest:
    """The case as a request; only its control images are given instead of made. `single` knew no mask."""
    scales = case["controlnet_scales"][1:] if case["controls"] else ()
    return InstantIDRequest(
        prompt=case["prompt"],
        style=case["style"],
        negative_prompt=case["negative_prompt"],
        num_inference_steps=case["steps"],
        guidance_scale=case["guidance"],
        controls=tuple(
            Control(name, scale, Image.fromarray(golden[f"in_control_{i}_{name}"]))
            for i, (name, scale) in enumerate(zip(case["controls"], scales, strict=True))
        ),
        ip_adapter_scale=case["ip_scale"],
        identity_controlnet_conditioning_scale=case["identity_scale"],
        enhance_face_region=case["enhance"] and case["pipeline"] != "single",
        seed=case["seed"],
        size=(case["width"], case["height"]),
    )
