"""InstantIDPipeline: portraits that keep the person, on SDXL with LCM (arXiv:2401.07519; upstream's `_full`)."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from PIL import Image
from torch import Tensor
from torch.nn import Module
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.cache import digest
from pipelines.endpoint import OnStep
from pipelines.faces.analysis import FaceAnalysis, load_faces
from pipelines.faces.similarity import Likeness
from pipelines.instantid.bases import Base, Bases, find_bases
from pipelines.instantid.conditioning import control_branches, face_embeddings, unet_context
from pipelines.instantid.controls import Estimators, control_image
from pipelines.instantid.endpoint import Control, InstantIDRequest, Style
from pipelines.instantid.identity_net import ControlNets
from pipelines.instantid.load import load_networks
from pipelines.instantid.lora import LoRAUse
from pipelines.instantid.prepared import (
    InstantIDPrepared,
    check_request,
    find_person,
    place_photo,
    tokenise_prompts,
)
from pipelines.instantid.prompt_weights import encode_weighted
from pipelines.instantid.resampler import Resampler
from pipelines.instantid.step import InstantIDStep
from pipelines.memory import decode_scratch, step_scratch
from pipelines.profile import Profile
from pipelines.sdxl.attention import IdentityLayers
from pipelines.sdxl.decode import deal, decode, deliver
from pipelines.sdxl.denoise import Step, denoise, draw_noise, resolve_seed, time_ids
from pipelines.sdxl.device import weight_of
from pipelines.sdxl.load import resolved
from pipelines.sdxl.pipeline import SDXLPipeline, on_device
from pipelines.sdxl.samplers import lcm_table
from pipelines.sdxl.text import Prompt
from pipelines.shelf import Shelf


class InstantIDPipeline(SDXLPipeline):
    """SDXL whose cross attentions also attend to face tokens, steered by IdentityNet and other ControlNets.

    Every network is a registered component; the face analyser is not. `load` is the one way to make it.

    Args:
        max_side: longest side in pixels of a picture whose size follows the photo.
        bases: the base models that requests may name instead of the registered components.
        estimators: what draws control images from the photo; canny alone without it.
        profile / shelf: how it is run; as it is without a profile (pipelines/sdxl/pipeline.py).
    """

    def __init__(  # noqa: PLR0913  diffusers reads the components from this signature
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        identity_layers: IdentityLayers,
        resampler: Resampler,
        identity_net: ControlNetModel,
        controlnets: ControlNets,
        scheduler: LCMScheduler,
        faces: FaceAnalysis | None = None,
        max_side: int = 1280,
        bases: Bases | None = None,
        estimators: Estimators | None = None,
        profile: Profile | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            identity_layers=identity_layers,
            resampler=resampler,
            identity_net=identity_net,
            controlnets=controlnets,
            scheduler=scheduler,
        )
        self.faces = faces
        self.max_side = max_side
        self.run_as(profile, unet.device, shelf)
        self.bases = bases or Bases()
        self.estimators = estimators or Estimators()

    @classmethod
    def load(
        cls,
        folder: Path,
        profile: Profile,
        shelf: Shelf | None = None,
        *,
        faces: FaceAnalysis | None = None,
        lora: LoRAUse = "fused",
    ) -> Self:
        """Read the checkpoints below `folder` (layout: weights/tiny/instantid). Raises LoadError naming a file.

        Args:
            shelf: what other pipelines of this process have loaded already.
            faces: the face analyser; None loads the real one from the folder beside.
            lora: how LCM's LoRA joins the UNet; unfused keeps its layers apart, none leaves it out.
        """
        shelf, profile = shelf or Shelf(), resolved(profile)
        faces = faces or load_faces(folder.parent / "antelopev2", profile, shelf)
        networks = load_networks(folder, profile, lora, shelf)
        bases = find_bases(folder, profile, lora, shelf)
        estimators = Estimators(folder.parent, profile)
        return cls(
            **networks,
            faces=faces,
            max_side=profile.max_side,
            bases=bases,
            estimators=estimators,
            profile=profile,
            shelf=shelf,
        )

    def prepare(self, request: InstantIDRequest, images: Sequence[Image.Image]) -> InstantIDPrepared:
        """Choose the size, find the largest face in the photo, draw the control images, tokenise the text.

        Without a photo there is no identity, and `request.size` must be given.

        Raises:
            InputError: naming the field. FaceNotFound, ImageTooSmall: about the photo.
        """
        most_steps = self.scheduler.config["original_inference_steps"]
        check_request(request, self.controlnets.names, most_steps, self.bases.names)
        photo, size = place_photo(request, images, self.max_side)
        prompt, negative = tokenise_prompts(self.tokenizer, request)
        return InstantIDPrepared(
            request=request,
            seed=resolve_seed(request.seed),
            size=size,
            prompt=prompt,
            negative=negative,
            person=None if photo is None else find_person(self.known_faces, photo, request.enhance_face_region),
            controls=tuple(control_image(c, photo, size, self.estimators) for c in request.controls if c.scale != 0),
        )

    @on_device
    @torch.inference_mode()
    def generate(
        self,
        prepared: Sequence[InstantIDPrepared],
        on_step: OnStep,
        output_type: Literal["uint8", "raw"] = "uint8",
    ) -> list[list[Any]]:
        """The pictures of requests with one batch key, as one batch; each equals what it would be alone.

        Returns:
            per request a list of one Picture, or of one Raw.
        """
        first, base, visit = prepared[0], self.base(prepared), self.residents.visit
        prompt, face = self.encode_prompt(prepared), self.encode_face(prepared)
        room = step_scratch(len(prompt.pooled), *first.size)
        with visit(*self.steering_nets(prepared), scratch=room), self.attention.preferred():
            latents, *fresh = self.draw_latents(prepared)
            step = self.make_step(prepared, prompt, face, fresh)
            latents = denoise(step, latents, first.request.num_inference_steps, on_step)
        seeds, people = [p.seed for p in prepared], [self.likeness(p) for p in prepared]
        with visit(base.vae, scratch=decode_scratch(*first.size, weight_of(base.vae).itemsize)):
            pictures = deliver(latents, decode(base.vae, latents, self.runner), seeds, people, output_type)
        return deal(pictures, [1] * len(prepared))

    def steering_nets(self, prepared: Sequence[InstantIDPrepared]) -> list[Module]:
        """The networks that a step of this batch runs."""
        first, unet = prepared[0], self.base(prepared).unet
        controls = [self.controlnets[control.name] for control in first.controls]
        return [unet, self.identity_layers, *[self.identity_net] * first.has_identity_net, *controls]

    def likeness(self, prepared: InstantIDPrepared) -> Likeness | None:
        """Whom the picture is to show."""
        return Likeness(self.faces, prepared.person.embedding) if self.faces and prepared.person else None

    def base(self, prepared: Sequence[InstantIDPrepared]) -> Base:
        """The networks of the base that the batch asks for: the components, and in their place what the base brings."""
        name = prepared[0].request.model_name
        if name and self.bases.resident not in (None, name):  # its place is about to be taken
            self.runner.clear()
            self.residents.clear()
        default = {field.name: getattr(self, field.name) for field in fields(Base)}
        return Base(**(default | (self.bases.take(name) if name else {})))

    def encode_prompt(self, prepared: Sequence[InstantIDPrepared]) -> Prompt:
        """Text tokens (B, N, 2048) and pooled (B, 1280), the unconditional half first when guided."""
        texts = [p.prompt for p in prepared]
        if prepared[0].guided:
            texts = [p.negative for p in prepared] + texts
        base = self.base(prepared)
        encoders = (base.text_encoder, base.text_encoder_2)
        key = ("text", prepared[0].request.model_name, *texts)
        return self.remembered(key, encoders, lambda: encode_weighted(encoders, texts))

    def encode_face(self, prepared: Sequence[InstantIDPrepared]) -> Tensor | None:
        """Face tokens (B, N, 2048); the unconditional ones are the Resampler's answer to a zero embedding (§A11)."""
        embeddings, resampler = face_embeddings(prepared), self.resampler
        if embeddings is None:
            return None
        key, given = ("tokens", digest(embeddings)), torch.from_numpy(embeddings)
        return self.remembered(key, [resampler], lambda: resampler(given.to(weight_of(resampler))))

    def draw_latents(self, prepared: Sequence[InstantIDPrepared]) -> Tensor:
        """The initial latents, then the fresh noise of each step but the last, every request's from its own generator.

        Returns:
            (steps, B, 4, H/8, W/8) float32.
        """
        width, height = prepared[0].size
        shape, draws = (4, height // 8, width // 8), prepared[0].request.num_inference_steps
        noise = [draw_noise(shape, torch.Generator().manual_seed(p.seed), draws) for p in prepared]
        return torch.stack(noise, 1).to(weight_of(self.unet).device)

    def make_step(
        self, prepared: Sequence[InstantIDPrepared], prompt: Prompt, face: Tensor | None, fresh: Sequence[Tensor]
    ) -> Step:
        """Project and place everything constant, then return the step: static shapes, no device sync."""
        first, unet = prepared[0], self.base(prepared).unet
        weight = weight_of(unet)
        table = lcm_table(self.scheduler, first.request.num_inference_steps, weight.device)
        sizes = time_ids(*first.size, batch=len(prompt.pooled), like=prompt.pooled)
        added = {"text_embeds": prompt.pooled, "time_ids": sizes}
        scales = torch.tensor([p.request.guidance_scale for p in prepared], device=weight.device)
        run = self.runner.bind(
            InstantIDStep(
                unet=unet,
                context=unet_context(unet, self.identity_layers, prepared, prompt, face),
                nets=tuple(control_branches((self.identity_net, self.controlnets), prepared, prompt, face, added)),
                together=self.branches,
                added=added,
                guidance=scales.view(-1, 1, 1, 1) if first.guided else None,
                dtype=weight.dtype,
            )
        )

        def step(latents: Tensor, i: int) -> Tensor:
            noise = fresh[i] if i < len(fresh) else torch.zeros_like(latents)
            return run(table.timesteps[i], table.coefficients[i], noise, latents)[0]

        return step

    def __call__(  # noqa: PLR0913  diffusers' argument names
        self,
        prompt: str,
        image: Image.Image | None = None,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 5,
        guidance_scale: float = 1.5,
        seed: int | None = None,
        style: Style = "(No style)",
        controls: Sequence[Control] = (Control("canny", 0.4),),
        ip_adapter_scale: float = 0.7,
        identity_controlnet_conditioning_scale: float = 0.7,
        enhance_face_region: bool = True,
        model_name: str | None = None,
        output_type: Literal["pil", "latent"] = "pil",
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], Any] | None = None,
    ) -> list[Image.Image] | list[Tensor]:
        """Prepare and generate in one call, for notebooks; `image` is a photo of the person.

        Width and height are given together; without them the size follows the photo.
        """
        if (width is None) != (height is None):
            raise ValueError("give both width and height, or neither")
        request = InstantIDRequest(
            prompt=prompt,
            style=style,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            controls=tuple(controls),
            ip_adapter_scale=ip_adapter_scale,
            identity_controlnet_conditioning_scale=identity_controlnet_conditioning_scale,
            enhance_face_region=enhance_face_region,
            seed=seed,
            size=None if width is None or height is None else (width, height),
            model_name=model_name,
        )
        return self.generate_one(self.prepare(request, [image] if image else []), output_type, callback_on_step_end)
