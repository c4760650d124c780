"""What both pipelines are beside their networks: how they run on this machine."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor

from pipelines.cache import Cache
from pipelines.endpoint import OnStep
from pipelines.faces.analysis import FaceAnalysis
from pipelines.faces.remembered import RememberedFaces
from pipelines.profile import Profile
from pipelines.sdxl.branches import branches_of
from pipelines.sdxl.graph import runner_of
from pipelines.sdxl.residents import Residents, residents_of
from pipelines.shelf import Shelf


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
        profile = profile or Profile(device=str(device))
        self.runner = runner_of(profile, torch.device(profile.device), shelf)
        self.branches = branches_of(profile.branches, torch.device(profile.device))
        self.attention = profile.attention
        self.cache = Cache(profile.identity_cache_mb, profile.identity_cache_s)
        self.residents = residents_of(profile, shelf) if shelf else Residents(device)

    def generate(
        self, prepared: Sequence[Any], on_step: OnStep, output_type: Literal["uint8", "raw"] = "uint8"
    ) -> list[list[Any]]:
        """See pipelines.endpoint.Pipeline; ``raw`` gives each picture before rounding, as pipelines.sdxl.decode.Raw."""
        raise NotImplementedError

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
