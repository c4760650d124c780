"""A request made ready on the CPU: checked, its face found, its pictures drawn, its text tokenised."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from transformers import CLIPTokenizer

from pipelines.errors import FaceNotFound, FeatureNotSupported, InputError, NotOneOf
from pipelines.faces.analysis import FaceAnalysis
from pipelines.instantid.controls import FIELD, ControlImage
from pipelines.instantid.endpoint import InstantIDRequest
from pipelines.instantid.keypoints import draw_kps
from pipelines.instantid.photo import Box, Size, clamp_box, fit
from pipelines.instantid.prompt_weights import Tokens, pad_equal, tokenise
from pipelines.instantid.styles import TEMPLATES, apply_style

LEAST_SIDE, MULTIPLE = 64, 8
"""Of an explicit size, in pixels: enough for the UNet's lowest resolution, and the VAE's factor."""


@dataclass(frozen=True, eq=False)
class Person:
    """Who to draw, and where.

    Args:
        embedding: (512,) float32, raw ArcFace.
        kps_image: (H, W, 3) uint8 RGB of the output's size.
        box: the face's box; None lets the identity act everywhere.
    """

    embedding: NDArray[np.float32]
    kps_image: NDArray[np.uint8]
    box: Box | None


@dataclass(frozen=True, eq=False)
class InstantIDPrepared:
    """A request ready to be generated.

    Args:
        seed: the request's, or the one drawn for it.
        size: (width, height) of the output in pixels.
        prompt / negative: style applied, of equal length.
        person: None without a photo.
        controls: those whose scale is not 0.
    """

    request: InstantIDRequest
    seed: int
    size: Size
    prompt: Tokens
    negative: Tokens
    person: Person | None
    controls: tuple[ControlImage, ...]

    @property
    def guided(self) -> bool:
        return self.request.guidance_scale > 1

    @property
    def has_adapter(self) -> bool:
        """Whether the UNet attends to the face tokens."""
        return self.person is not None and self.request.ip_adapter_scale != 0

    @property
    def has_identity_net(self) -> bool:
        return self.person is not None and self.request.identity_controlnet_conditioning_scale != 0

    @property
    def batch_key(self) -> tuple[Any, ...]:
        return (
            self.request.model_name,
            self.size,
            self.request.num_inference_steps,
            self.guided,
            len(self.prompt.ids),
            tuple(control.name for control in self.controls),
            self.has_adapter,
            self.has_identity_net,
            self.person is not None and self.person.box is not None,
        )


def check_request(
    request: InstantIDRequest, controls: Sequence[str], most_steps: int, bases: Sequence[str] = ()
) -> None:
    """What the schema cannot know. Raises InputError naming the field.

    Args:
        controls: names of the ControlNets that are installed. most_steps: that the sampler can take.
        bases: names of the other base models that are registered.
    """
    if request.model_name is not None and request.model_name not in bases:
        choice = f"Choose one of {list(bases)}, or leave" if bases else "Leave"
        raise NotOneOf(
            ("model_name",),
            f"No base model of this name is registered on this server. {choice} model_name out to use the default one.",
            {"expected": [*bases]},
        )
    if request.style not in TEMPLATES:
        raise NotOneOf(
            ("style",), f"There is no such style. Choose one of {list(TEMPLATES)}.", {"expected": [*TEMPLATES]}
        )
    if not 1 <= request.num_inference_steps <= most_steps:
        raise InputError(("num_inference_steps",), f"Choose between 1 and {most_steps} steps.")
    if request.size and any(side < LEAST_SIDE or side % MULTIPLE for side in request.size):
        raise InputError(("size",), f"Sides must be multiples of {MULTIPLE} and at least {LEAST_SIDE} pixels.")
    missing = [control.name for control in request.controls if control.scale != 0 and control.name not in controls]
    if missing:
        raise FeatureNotSupported(
            FIELD, f"This server has no {missing[0]} ControlNet. Choose one of {list(controls)}, or null for none."
        )


def place_photo(request: InstantIDRequest, images: Sequence[Image], max_side: int) -> tuple[Image | None, Size]:
    """The photo as RGB at the output's size, and that size. Raises ImageTooSmall, or InputError without both."""
    if images:
        photo = images[0].convert("RGB")
        photo = photo.resize(request.size, Resampling.BILINEAR) if request.size else fit(photo, max_side)
        return photo, photo.size
    if request.size is None:
        raise InputError(("size",), "Without a photo the size must be given.")
    return None, request.size


def find_person(faces: FaceAnalysis | None, photo: Image, restrict: bool) -> Person:
    """The largest face of a photo of the output's size; `restrict` keeps its box. Raises FaceNotFound."""
    assert faces is not None, "this pipeline was made without a face analyser"
    face = faces.largest(photo)
    if face is None:
        raise FaceNotFound(("face_image_url",))
    box = clamp_box(face.bbox, photo.size) if restrict else None
    return Person(face.embedding, draw_kps(photo.size, face.kps), box)


def tokenise_prompts(tokenizer: CLIPTokenizer, request: InstantIDRequest) -> tuple[Tokens, Tokens]:
    """Prompt and negative prompt in the request's style, filled up to equal length. Raises InputError."""
    texts = apply_style(request.style, request.prompt, request.negative_prompt)
    tokens = []
    for field, text in zip(("prompt", "negative_prompt"), texts, strict=True):
        try:
            tokens.append(tokenise(tokenizer, text))
        except ValueError as error:
            raise InputError((field,), str(error)) from error
    prompt, negative = pad_equal(*tokens)
    return prompt, negative
