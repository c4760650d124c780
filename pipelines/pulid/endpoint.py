"""`fal-ai/pulid`: schema, defaults and ranges of fal-protocol.md §8.1. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, Field, field_validator
from pydantic_core import PydanticCustomError

from pipelines.endpoint import (
    IMAGE_SIZES,
    CardStage,
    Endpoint,
    Image,
    ImageField,
    ImageSize,
    ImageSizePreset,
    Input,
    Output,
    Seed,
    key_of,
)

Mode = Literal["fidelity", "extreme style"]

NEGATIVE_PROMPT = (
    "flaws in the eyes, flaws in the face, flaws, lowres, non-HDRi, low quality, worst quality,artifacts noise, text, "
    "watermark, glitch, deformed, mutated, ugly, disfigured, hands, low resolution, partially rendered objects,  "
    "deformed or partially rendered eyes, deformed, deformed eyeballs, cross-eyed,blurry"
)
"""Byte for byte fal's published default, odd spacing included."""

SIDE_MULTIPLE, MIN_SIDE, MAX_SIDE, MAX_PIXELS = 8, 256, 2048, 4 * 1024 * 1024


@dataclass(frozen=True)
class PuLIDRequest:
    """What to compute, free of the API's ranges.

    Args:
        width / height: pixels, multiples of 8.
        num_inference_steps: >= 1. guidance_scale: CFG is on above 1. id_scale: 0 switches the identity off.
        mode: ``"fidelity"`` or ``"extreme style"``.
        seed: None draws one below 2**32.
    """

    prompt: str
    negative_prompt: str = NEGATIVE_PROMPT
    num_images: int = 1
    guidance_scale: float = 1.2
    num_inference_steps: int = 4
    seed: int | None = None
    width: int = 768
    height: int = 1024
    id_scale: float = 0.8
    mode: Mode = "fidelity"
    id_mix: bool = False


class ReferenceFace(BaseModel):
    """A photo of the person."""

    image_url: str = Field(description="URL of the reference face image")


def floor_to_multiple(size: ImageSize) -> ImageSize:
    """Floor both sides to 8, then refuse what the model cannot draw. Raises fal's image_too_small / image_too_large."""
    width, height = (side // SIDE_MULTIPLE * SIDE_MULTIPLE for side in (size.width, size.height))
    if min(width, height) < MIN_SIDE:
        raise PydanticCustomError(
            "image_too_small",
            "image_size must be at least {min_width}x{min_height} pixels",
            {"min_width": MIN_SIDE, "min_height": MIN_SIDE},
        )
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise PydanticCustomError(
            "image_too_large",
            "image_size must be at most {max_width}x{max_height} and 4 megapixels",
            {"max_width": MAX_SIDE, "max_height": MAX_SIDE},
        )
    return ImageSize(width=width, height=height)


class PulidInput(Input):
    """Input of `fal-ai/pulid`."""

    reference_images: list[ReferenceFace] = Field(
        min_length=1, description="List of reference faces, ideally 4 images."
    )
    prompt: str = Field(description="Prompt to generate the face from")
    negative_prompt: str = Field(default=NEGATIVE_PROMPT, description="Negative prompt to generate the face from")
    num_images: int = Field(default=1, ge=1, le=8, description="Number of images to generate")
    guidance_scale: float = Field(default=1.2, ge=1, le=1.5, description="Guidance scale")
    num_inference_steps: int = Field(default=4, ge=1, le=12, description="Number of steps to take")
    seed: Seed | None = Field(default=None, description="Random seed for reproducibility")
    image_size: ImageSize | ImageSizePreset = Field(
        default=ImageSize(width=768, height=1024), description="Size of the generated image"
    )
    id_scale: float = Field(default=0.8, gt=0, le=5, description="ID scale")
    mode: Mode = Field(default="fidelity", description="Mode of generation")
    id_mix: bool = Field(
        default=False, description="if you want to mix two ID image, please turn this on, otherwise, turn this off"
    )

    @field_validator("image_size")
    @classmethod
    def drawable(cls, size: ImageSize | ImageSizePreset) -> ImageSize | ImageSizePreset:
        return floor_to_multiple(size) if isinstance(size, ImageSize) else size

    def images(self) -> list[ImageField]:
        return [
            ImageField(("reference_images", index, "image_url"), face.image_url)
            for index, face in enumerate(self.reference_images)
        ]

    def request(self) -> PuLIDRequest:
        size = IMAGE_SIZES[self.image_size] if isinstance(self.image_size, str) else self.image_size
        return PuLIDRequest(
            **self.model_dump(exclude={"reference_images", "image_size"}), width=size.width, height=size.height
        )

    def batch_key(self) -> str:
        """A request for several pictures is a batch of its own."""
        if self.num_images > 1:
            return ""
        request = self.request()
        size, guided = (request.width, request.height), request.guidance_scale > 1
        person = (request.mode, request.id_mix, len(self.reference_images))
        return key_of(size, request.num_inference_steps, guided, *person)


class PulidOutput(Output):
    """Output of `fal-ai/pulid`."""

    images: list[Image] = Field(description="List of generated images")
    seed: int = Field(description="Random seed used for reproducibility")

    @classmethod
    def of(cls, images: Sequence[Image], seed: int) -> Self:
        return cls(images=list(images), seed=seed)


PULID = Endpoint(
    id="fal-ai/pulid",
    title="PuLID",
    description="Tuning-free ID customization: portraits that keep the person, on SDXL-Lightning.",
    input=PulidInput,
    output=PulidOutput,
    pipeline="pipelines.pulid.pipeline:PuLIDPipeline",
    folder="pulid",
    checkpoints=("sdxl-base", "sdxl-lightning", "pulid-v1", "eva02-clip-l-336", "bisenet", "antelopev2"),
    stages=(
        CardStage(
            "identity", {"EVA02-CLIP-L": "eva02_clip_l_336", "BiSeNet": "bisenet", "IDEncoder": "pulid_v1:id_adapter."}
        ),
        CardStage("text", {"CLIP-L": "sdxl_text_encoder", "bigG": "sdxl_text_encoder_2"}),
        CardStage(
            "denoise", {"PuLID UNet": "sdxl_unet", "PuLID layers": "pulid_v1:id_adapter_attn_layers."}, *(2, 768, 1024)
        ),
        CardStage("decode", {"VAE": "sdxl_vae"}, 0, 768, 1024),
    ),
)
