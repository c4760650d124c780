"""What both pipelines are beside their networks: how they run on this machine."""

from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from typing import Any, Concatenate, Literal, NoReturn, ParamSpec, TypeVar

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from pipelines.cache import Cache
from pipelines.endpoint import OnStep
from pipelines.errors import OutOfMemory
from pipelines.faces.analysis import FaceAnalysis
from pipelines.faces.remembered import RememberedFaces
from pipelines.profile import Profile
from pipelines.sdxl.branches import branches_of
from pipelines.sdxl.device import device_failures, kernels_of
from pipelines.sdxl.graph import runner_of
from pipelines.sdxl.residents import residents_of
from pipelines.shelf import Shelf

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class SDXLPipeline(DiffusionPipeline):
    """A diffusers pipeline with `prepare` and `generate` of its own.

    Attributes:
        faces: finds people in photos; None where faces are given.
        runner: how steps are run. branches: how ControlNets are run beside the UNet. cache: what requests share.
        residents: which networks are on the device. attention: the kernels that steps prefer.
    """

    faces: FaceAnalysis | None

    def run_as(self, profile: Profile | None, device: torch.device, shelf: Shelf | None = None) -> None:
        """Run as the profile says; without one as it is, with all networks on `device` and nothing kept."""
        profile, shelf = profile or Profile(device=str(device)), Shelf() if shelf is None else shelf
        self.runner = runner_of(profile, torch.device(profile.device), shelf)
        self.branches = branches_of(profile.branches, torch.device(profile.device))
        self.attention = kernels_of(profile, shelf)
        self.cache = Cache(profile.identity_cache_mb, profile.identity_cache_s)
        self.residents = residents_of(profile, shelf)

    def generate(
        self, prepared: Sequence[Any], on_step: OnStep, output_type: Literal["uint8", "raw"] = "uint8"
    ) -> list[list[Any]]:
        """See pipelines.endpoint.Pipeline; ``raw`` gives each picture before rounding, as pipelines.sdxl.decode.Raw."""
        raise NotImplementedError

    def remembered(self, key: Hashable, nets: Sequence[nn.Module], make: Callable[[], Result]) -> Result:
        """What is kept under `key`, or what `make` makes while these networks visit the device."""

        def visited() -> Result:
            with self.residents.visit(*nets):
                return make()

        return self.cache.get(key, visited)

    def forget(self) -> None:
        """Give back the memory of everything that is kept only to be faster next time."""
        self.runner.clear()
        self.residents.clear()
        self.cache.clear()
        if self.residents.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def known_faces(self) -> FaceAnalysis | None:
        """The face analyser, which remembers photos that it has seen."""
        return self.faces and RememberedFaces(self.faces, self.cache)

    def generate_one(
        self,
        prepared: Any,
        output_type: Literal["pil", "latent"],
        callback: Callable[[Any, int, int, dict], Any] | None,
    ) -> list[Image.Image] | list[Tensor]:
        """The pictures of one request, in the manner of diffusers' pipelines.

        Args:
            callback: called as (pipeline, step from 0, steps, nothing) after each step.
        """

        def on_step(step: int, total: int) -> bool:
            if callback:
                callback(self, step - 1, total, {})
            return False

        if output_type == "latent":
            return [raw.latents for raw in self.generate([prepared], on_step, "raw")[0]]
        return [Image.fromarray(picture.image) for picture in self.generate([prepared], on_step)[0]]

    def save_pretrained(self, *_: object, **__: object) -> NoReturn:
        """Refused: a plain diffusers save would drop the identity layers' place in the UNet."""
        raise NotImplementedError(
            f"{type(self).__name__} cannot be saved by diffusers; "
            "`veraicon weights prepare` writes the files that are fast to load"
        )


def on_device(
    generate: Callable[Concatenate[Any, Arguments], Result],
) -> Callable[Concatenate[Any, Arguments], Result]:
    """A pipeline's `generate`, with torch's failures in the worker's words; short of memory it forgets what it kept."""

    @wraps(generate)
    def run(pipeline: Any, *args: Arguments.args, **more: Arguments.kwargs) -> Result:
        try:
            with device_failures():
                return generate(pipeline, *args, **more)
        except OutOfMemory:
            pipeline.forget()
            raise

    return run
