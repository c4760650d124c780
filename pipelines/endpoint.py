"""What a model offers: Endpoint, Input, Output, and the Pipeline behind it. Torch-free: the HTTP process looks here."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from PIL import Image as PILImage
from pydantic import BaseModel, ConfigDict, Field

from pipelines.profile import Profile
from pipelines.shelf import Shelf

if TYPE_CHECKING:  # the HTTP process starts without numpy
    import numpy as np
    from numpy.typing import NDArray

Loc = tuple[str | int, ...]
OnStep = Callable[[int, int], bool]
"""``on_step(step, total)``, called after each denoising step (1-based); returns whether to stop."""
Measure = Callable[[], float | None]
"""Works out one number about a picture, off the GPU's thread; None where it has no such number."""


@dataclass(frozen=True)
class ImageField:
    """One picture that a request names: where it stands in the body, and its URL or data URI."""

    loc: Loc
    url: str


class Input(BaseModel):
    """A request's body. Unknown fields are ignored, as fal's own apps do (fal-protocol.md §8.2).

    An error's text, which a log may hold, names no value: that is a client's prompt.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)

    def images(self) -> list[ImageField]:
        """The pictures to fetch, in the order in which `Pipeline.prepare` expects them."""
        raise NotImplementedError

    def request(self) -> Any:
        """The pipeline's own frozen request: what is computed, without API ranges and without URLs."""
        raise NotImplementedError

    def batch_key(self) -> str:
        """What requests that may be generated together have in common, as far as the body tells; empty: only alone.

        `Prepared.batch_key` has the last word.
        """
        return ""


def key_of(*parts: Hashable) -> str:
    """A short batch key: equal for equal parts only. Some parts are the client's own text, of any length."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


class ImageSize(BaseModel):
    """A picture's size in pixels."""

    width: int = Field(default=512, gt=0, le=14142, description="The width of the generated image.")
    height: int = Field(default=512, gt=0, le=14142, description="The height of the generated image.")


IMAGE_SIZES: Mapping[str, ImageSize] = {
    "square_hd": ImageSize(width=1024, height=1024),
    "square": ImageSize(width=512, height=512),
    "portrait_4_3": ImageSize(width=768, height=1024),
    "portrait_16_9": ImageSize(width=576, height=1024),
    "landscape_4_3": ImageSize(width=1024, height=768),
    "landscape_16_9": ImageSize(width=1024, height=576),
}
"""fal's presets (fal-protocol.md §8.3)."""

ImageSizePreset = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]

Seed = Annotated[int, Field(ge=0, le=2**64 - 1)]
"""What torch.Generator.manual_seed takes without wrapping."""


class Image(BaseModel):
    """A picture in a response (fal-protocol.md §8.3)."""

    url: str = Field(description="The URL where the file can be downloaded from.")
    content_type: str | None = Field(default=None, description="The mime type of the file.", examples=["image/png"])
    file_name: str | None = Field(default=None, description="The name of the file.")
    file_size: int | None = Field(default=None, description="The size of the file in bytes.")
    width: int | None = Field(default=None, description="The width of the image in pixels.")
    height: int | None = Field(default=None, description="The height of the image in pixels.")


class Output(BaseModel):
    """A response's body."""

    @classmethod
    def of(cls, images: Sequence[Image], seed: int) -> Self:
        """The body for these pictures, which were made with this seed."""
        raise NotImplementedError

    @classmethod
    def metrics(cls, measured: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
        """What the finished request's status says about the pictures: per name a list, one number for each."""
        return {name: [one[name] for one in measured] for name in measured[0]}


@dataclass(frozen=True)
class Picture:
    """One generated picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        seed: the seed it was made with, as echoed to the client.
        metrics: name -> how to measure it, e.g. ``identity_similarity``; the same names for a request's every picture.
        text: what to write into the PNG as tEXt chunks.
    """

    image: "NDArray[np.uint8]"
    seed: int
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    text: Mapping[str, str] = field(default_factory=dict)


class Prepared(Protocol):
    """A request made ready on the CPU. Requests with the same batch key may be generated together."""

    @property
    def batch_key(self) -> tuple[Any, ...]: ...


class Pipeline(Protocol):
    """What the worker holds. `prepare` may run on a thread while `generate` runs for another request."""

    @classmethod
    def load(cls, folder: Path, profile: Profile, shelf: Shelf | None = None) -> Self:
        """Read the checkpoints below `folder`. Raises LoadError naming the file that is missing or wrong.

        What the process's other pipelines made of the same files is taken from the shelf.
        """
        ...

    def prepare(self, request: Any, images: Sequence[PILImage.Image]) -> Prepared:
        """Find faces, choose the size, make control images. Raises InputError naming the field."""
        ...

    def generate(self, prepared: Sequence[Any], on_step: OnStep) -> list[list[Picture]]:
        """The pictures of each request, in order. Raises Cancelled when `on_step` said so."""
        ...


@dataclass(frozen=True)
class CardStage:
    """What must be on the card at once during a part of a request, for planning its memory.

    Args:
        networks: name -> its key/shape list in weights/shapes, or ``list:prefix`` for the keys that begin so; one
            name in several endpoints is one shared network.
        rows: of the largest usual batch, with guidance; 0 where only pictures are decoded.
        width / height: of the largest usual picture, in pixels.
    """

    name: str
    networks: Mapping[str, str]
    rows: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Endpoint:
    """A public id and everything the server must know to offer it.

    Args:
        id: fal's id, e.g. ``"fal-ai/instantid/lcm"``.
        pipeline: import string ``"module:Class"``; opened only by the worker.
        folder: name of the model's folder below the weights folder.
        checkpoints: names in weights/manifest.toml that must be present before the server starts.
        commercial_use: fal's label on the model page (the weights' licences decide, see LICENCES.md).
        aliases: other ids of fal's with (nearly) the same input, answered for when the operator switches them on.
        stages: what the card must hold, for `veraicon doctor`.
    """

    id: str
    title: str
    description: str
    input: type[Input]
    output: type[Output]
    pipeline: str
    folder: str
    checkpoints: tuple[str, ...] = ()
    commercial_use: Literal["yes", "research only"] = "research only"
    aliases: tuple[str, ...] = ()
    stages: tuple[CardStage, ...] = ()
