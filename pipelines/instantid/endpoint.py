"""`fal-ai/instantid/lcm`: schema, defaults and ranges of fal-protocol.md §8.2 and instantid.md §0. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from PIL import Image as PILImage
from pydantic import AliasChoices, Field

from pipelines.endpoint import CardStage, Endpoint, Image, ImageField, Input, Output, Seed, key_of

Style = Literal[
    "(No style)",
    "Headshot",
    "Spring Festival",
    "Watercolor",
    "Film Noir",
    "Neon",
    "Jungle",
    "Mars",
    "Vibrant Color",
    "Snow",
    "Line art",
]
ControlName = Literal["pose", "canny", "depth"]


@dataclass(frozen=True)
class Control:
    """One ControlNet beside IdentityNet.

    Args:
        name: which ControlNet and which estimator.
        scale: 0 skips the net.
        image: RGB control image of the output's size; None makes one from the photo.
    """

    name: ControlName
    scale: float
    image: PILImage.Image | None = None


@dataclass(frozen=True)
class InstantIDRequest:
    """What to compute, free of the API's ranges.

    Args:
        num_inference_steps: >= 1. guidance_scale: CFG is on above 1. Scales: 0 switches the part off, exactly.
        controls: ControlNets beside IdentityNet, any number.
        enhance_face_region: restrict the identity to the face's box, so that the rest follows the prompt.
        seed: None draws one below 2**32.
        size: (width, height) in pixels, at least 64, multiples of 8; None follows the photo (instantid.md §A2).
        model_name: name of a base model that the operator registered; None is the default one.
    """

    prompt: str
    style: Style = "Headshot"
    negative_prompt: str = ""
    num_inference_steps: int = 5
    guidance_scale: float = 1.5
    controls: tuple[Control, ...] = (Control("canny", 0.4),)
    ip_adapter_scale: float = 0.7
    identity_controlnet_conditioning_scale: float = 0.7
    enhance_face_region: bool = True
    seed: int | None = None
    size: tuple[int, int] | None = None
    model_name: str | None = None


class InstantidLcmInput(Input):
    """Input of `fal-ai/instantid/lcm`."""

    face_image_url: str = Field(description="The image of the person you want to generate.")
    prompt: str = Field(description="The prompt to use for generating the image. Be as descriptive as possible.")
    style: Style = Field(default="Headshot", description="The style of the generated image.")
    negative_prompt: str = Field(
        default="", description="The negative prompt to use: details that you don't want in the image."
    )
    num_inference_steps: int = Field(
        default=5, ge=1, le=50, description="The number of denoising steps; 1 to 12 for best results with LCM."
    )
    guidance_scale: float = Field(
        default=1.5,
        ge=0,
        le=10,
        description="Classifier-free guidance scale; 0.1 to 2.0 for best results with LCM, off at 1 and below.",
    )
    controlnet_selection: ControlName | None = Field(
        default="canny", description="Type of the ControlNet. If null, no ControlNet is used."
    )
    controlnet_conditioning_scale: float = Field(
        default=0.4, ge=0, le=2, description="The scale of the controlnet conditioning."
    )
    ip_adapter_scale: float = Field(
        default=0.7, ge=0, le=2, description="The scale of the IP adapter (increase to improve details)."
    )
    identity_controlnet_conditioning_scale: float = Field(
        default=0.7,
        ge=0,
        le=2,
        description="The scale of the identity controlnet's conditioning (increase to preserve identity).",
    )
    enhance_face_region: bool = Field(default=True, description="Whether to enhance the face region or not.")
    seed: Seed | None = Field(
        default=None, description="The same seed and the same prompt give the same image every time."
    )
    model_name: str | None = Field(
        default=None,
        validation_alias=AliasChoices("model_name", "base_model", "model_url"),
        description="Name of a base model that this server's operator registered; the default model if not given.",
    )

    def images(self) -> list[ImageField]:
        return [ImageField(("face_image_url",), self.face_image_url)]

    def request(self) -> InstantIDRequest:
        selection, scale = self.controlnet_selection, self.controlnet_conditioning_scale
        return InstantIDRequest(
            **self.model_dump(
                exclude={"face_image_url", "controlnet_selection", "controlnet_conditioning_scale", "model_name"}
            ),
            controls=(Control(selection, scale),) if selection else (),
            model_name=self.model_name or None,
        )

    def batch_key(self) -> str:
        request = self.request()
        return key_of(
            request.model_name,
            request.num_inference_steps,
            request.guidance_scale > 1,
            tuple(control.name for control in request.controls if control.scale != 0),
            request.ip_adapter_scale != 0,
            request.identity_controlnet_conditioning_scale != 0,
            request.enhance_face_region,
        )


class InstantidLcmOutput(Output):
    """Output of `fal-ai/instantid/lcm`; `image` is singular, unlike PuLID's."""

    image: Image = Field(description="The generated image")
    seed: int = Field(description="The seed used to generate the image")

    @classmethod
    def of(cls, images: Sequence[Image], seed: int) -> Self:
        return cls(image=images[0], seed=seed)

    @classmethod
    def metrics(cls, measured: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
        """There is one picture, so a number is no list."""
        return dict(measured[0])


INSTANTID_LCM = Endpoint(
    id="fal-ai/instantid/lcm",
    title="InstantID LCM",
    description="Zero-shot identity-preserving portraits from one photo, in a few steps.",
    input=InstantidLcmInput,
    output=InstantidLcmOutput,
    pipeline="pipelines.instantid.pipeline:InstantIDPipeline",
    folder="instantid",
    checkpoints=("instantid", "instantid-base", "lcm-lora", "controlnet-canny", "antelopev2"),
    aliases=("fal-ai/instantid", "fal-ai/instantid/standard"),
    stages=(
        CardStage("text", {"CLIP-L": "sdxl_text_encoder", "bigG": "sdxl_text_encoder_2"}),
        CardStage(
            "denoise",
            {
                "InstantID UNet": "sdxl_unet",
                "IP-adapter": "instantid_ip_adapter:ip_adapter.",
                "IdentityNet": "sdxl_controlnet",
                "ControlNet": "sdxl_controlnet",
            },
            *(2, 960, 1280),
        ),
        CardStage("decode", {"VAE": "sdxl_vae"}, 0, 960, 1280),
    ),
)
