"""Upstream's way and plain diffusers' as columns, on the same numbers as ours."""

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn

from pipelines.endpoint import OnStep
from pipelines.sdxl.denoise import denoise, draw_noise
from scripts import step_inputs, upstream_steps, usual_steps
from scripts.gpu.columns import Column, Pixels, never, quietly
from scripts.gpu.encoders import pillow_png
from scripts.gpu.models import PIPELINES, Model, prepared
from scripts.gpu.networks import Kit

Other = Literal["upstream", "plain"]
INPUTS: dict[Model, Any] = {"instantid": step_inputs.instantid_inputs, "pulid": step_inputs.pulid_inputs}


def other_column(name: Other, kit: Kit, model: Model) -> Column:
    """Stock networks and loops.

    ``upstream``: InstantID's LoRA unfused, PuLID's identity in float32, and a VAE that is cast to float32 for each
    picture and back; ``plain``: everything in the kit's precision. Both write PNG with Pillow. Plain InstantID knows no
    mask and gives IdentityNet the text, so its latents are others.
    """
    pipeline = PIPELINES[model](kit, name)
    request = prepared(pipeline, kit)
    inputs = quietly(lambda: INPUTS[model](pipeline, request))
    decode = whole_vae(pipeline.vae) if name == "upstream" else half_vae(pipeline.vae)
    latents, _ = first_latents(pipeline, request)
    step = quietly(lambda: step_of(name, model, pipeline, inputs()))()

    def run(batch: int, on_step: OnStep) -> list[Pixels]:
        with torch.inference_mode():
            inputs()  # the step has equal ones already: this is only their time
            return decode(denoise(step, latents, request.request.num_inference_steps, on_step))

    def final() -> Tensor:
        with torch.inference_mode():
            _, generator = first_latents(pipeline, request)
            repeatable = step_of(name, model, pipeline, inputs(), generator)
            return denoise(repeatable, latents, request.request.num_inference_steps, never)[0].float()

    return Column(
        name=name,
        model=model,
        parts=lambda: {"VAE": quietly(lambda: decode(latents))},
        run=run,
        latents=None if (model, name) == ("instantid", "plain") else final,
        encode=pillow_png,
        encoder="Pillow",
    )


def step_of(
    name: Other, model: Model, pipeline: Any, inputs: Any, generator: torch.Generator | None = None
) -> Callable[[Tensor, int], Tensor]:
    """The step for these inputs; fresh noise from `generator`, or drawn on the device without one."""
    weights, scheduler = step_inputs.identity_weights(pipeline.identity_layers), copy.deepcopy(pipeline.scheduler)
    if model == "pulid":
        return usual_steps.pulid(pipeline.unet, weights, scheduler, inputs, "fidelity")
    controls = [pipeline.identity_net, pipeline.controlnets["canny"]]
    build = upstream_steps.instantid if name == "upstream" else usual_steps.instantid
    return build(pipeline.unet, controls, weights, scheduler, inputs, generator)


def first_latents(pipeline: Any, request: Any) -> tuple[Tensor, torch.Generator]:
    """The noise that our pipeline starts this request with, and a generator that goes on as ours does."""
    generator = torch.Generator().manual_seed(request.seed)
    width, height = request.size if hasattr(request, "size") else (request.request.width, request.request.height)
    return draw_noise((4, height // 8, width // 8), generator, 1).to(pipeline.unet.device), generator


def whole_vae(vae: Any) -> Callable[[Tensor], list[Pixels]]:
    """diffusers' way with SDXL's VAE: cast to float32 for every picture and back (instantid.md §A16)."""
    kept = vae.dtype

    def decode(latents: Tensor) -> list[Pixels]:
        nn.Module.to(vae, torch.float32)
        pixels = half_vae(vae)(latents)
        nn.Module.to(vae, kept)
        return pixels

    return decode


def half_vae(vae: Any) -> Callable[[Tensor], list[Pixels]]:
    """A VAE in its own precision, and diffusers' postprocessing."""
    processor = VaeImageProcessor()

    def decode(latents: Tensor) -> list[Pixels]:
        images = vae.decode(latents.to(vae.dtype) / vae.config["scaling_factor"], return_dict=False)[0]
        pictures: Any = processor.postprocess(images, output_type="pil")
        return [np.asarray(picture) for picture in pictures]

    return decode
