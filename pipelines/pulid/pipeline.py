"""PuLIDPipeline: portraits that keep the person, on SDXL-Lightning (arXiv:2404.16022; upstream v1)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.cache import digest
from pipelines.endpoint import OnStep
from pipelines.errors import FaceNotFound
from pipelines.faces.analysis import FaceAnalysis, load_faces
from pipelines.faces.similarity import Likeness
from pipelines.memory import decode_scratch, step_scratch
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.identity import encode_photos, merge_photos
from pipelines.pulid.load import load_networks
from pipelines.pulid.nets.bisenet import BiSeNet
from pipelines.pulid.nets.eva import EVAVisionTower
from pipelines.pulid.nets.id_encoder import IDEncoder
from pipelines.pulid.prepared import PuLIDPrepared, shrink, stack_halves
from pipelines.pulid.step import PuLIDStep
from pipelines.sdxl.attention import (
    EXTREME_STYLE,
    FIDELITY,
    Context,
    Identity,
    IdentityLayers,
    IdentityMode,
    text_keys_values,
)
from pipelines.sdxl.decode import deal, decode, deliver
from pipelines.sdxl.denoise import Step, denoise, draw_noise, resolve_seed, time_ids
from pipelines.sdxl.device import weight_of
from pipelines.sdxl.load import resolved
from pipelines.sdxl.pipeline import SDXLPipeline, on_device
from pipelines.sdxl.samplers import dpm_table
from pipelines.sdxl.text import Prompt, encode_texts
from pipelines.shelf import Shelf

MODES: dict[str, IdentityMode] = {
    "fidelity": FIDELITY,
    "extreme style": EXTREME_STYLE,
    "extremely style": EXTREME_STYLE,  # upstream's spelling; the API knows fal's only
}


class PuLIDPipeline(SDXLPipeline):
    """SDXL-Lightning whose cross attentions also attend to identity tokens.

    Every network is a registered component; the face analyser is not. `load` is the one way to make it.
    """

    unconditional_identity: Tensor
    """Tokens (1, 10, width) of no person, computed once at load."""

    def __init__(  # noqa: PLR0913  diffusers reads the components from this signature
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        identity_layers: IdentityLayers,
        id_encoder: IDEncoder,
        eva: EVAVisionTower,
        face_parser: BiSeNet,
        scheduler: DPMSolverMultistepScheduler,
        faces: FaceAnalysis | None = None,
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
            id_encoder=id_encoder,
            eva=eva,
            face_parser=face_parser,
            scheduler=scheduler,
        )
        self.faces = faces
        self.run_as(profile, unet.device, shelf)
        with torch.inference_mode():
            self.unconditional_identity = id_encoder.unconditional()

    @classmethod
    def load(
        cls,
        folder: Path,
        profile: Profile,
        shelf: Shelf | None = None,
        *,
        faces: FaceAnalysis | None = None,
    ) -> Self:
        """Read the checkpoints below `folder` (layout: weights/tiny/pulid). Raises LoadError naming a file.

        Args:
            shelf: what other pipelines of this process have loaded already.
            faces: the face analyser; None loads the real one from the folder beside.
        """
        shelf, profile = shelf or Shelf(), resolved(profile)
        faces = faces or load_faces(folder.parent / "antelopev2", profile, shelf)
        return cls(**load_networks(folder, profile, shelf), faces=faces, profile=profile, shelf=shelf)

    def prepare(self, request: PuLIDRequest, images: Sequence[Image.Image]) -> PuLIDPrepared:
        """Find and align the largest face of every photo, in order.

        Raises:
            FaceNotFound: naming the photo's index.
        """
        found = [self.find_face(image, index) for index, image in enumerate(images)]
        crops, embeddings = zip(*found, strict=True) if found else ((), ())
        return PuLIDPrepared(request, resolve_seed(request.seed), crops, embeddings)

    def find_face(self, image: Image.Image, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Aligned crop and raw embedding of one photo's largest face."""
        assert self.faces is not None
        photo = shrink(image)
        face = (self.known_faces or self.faces).largest(photo)
        if face is None:
            raise FaceNotFound(("reference_images", index, "image_url"))
        return self.faces.crop(photo, face), face.embedding

    @on_device
    @torch.inference_mode()
    def generate(
        self,
        prepared: Sequence[PuLIDPrepared],
        on_step: OnStep,
        output_type: Literal["uint8", "raw"] = "uint8",
    ) -> list[list[Any]]:
        """The pictures of requests with one batch key, as one batch; each equals what it would be alone.

        Returns:
            per request a list of Picture, or of Raw.
        """
        request, visit = prepared[0].request, self.residents.visit
        size = (request.width, request.height)
        tokens, prompt = self.encode_photos(prepared), self.encode_prompt(prepared)
        room = step_scratch(len(prompt.pooled), *size)
        with visit(self.unet, self.identity_layers, scratch=room), self.attention.preferred():
            latents = self.draw_latents(prepared)
            step = self.make_step(prepared, prompt, self.project_identity(prepared, tokens), latents)
            latents = denoise(step, latents, request.num_inference_steps, on_step)
        sources = [p for p in prepared for _ in range(p.request.num_images)]
        seeds, people = [p.seed for p in sources], [self.likeness(p) for p in sources]
        with visit(self.vae, scratch=decode_scratch(*size, weight_of(self.vae).itemsize)):
            pictures = deliver(latents, decode(self.vae, latents, self.runner), seeds, people, output_type)
        return deal(pictures, [p.request.num_images for p in prepared])

    def likeness(self, prepared: PuLIDPrepared) -> Likeness | None:
        """Whom the pictures are to show: the person in the first photo."""
        return Likeness(self.faces, prepared.embeddings[0]) if self.faces and prepared.embeddings else None

    def encode_identity(self, prepared: Sequence[PuLIDPrepared]) -> Identity | None:
        """Keys and values of the identity for every picture of the batch, (unconditional, conditional) when guided."""
        return self.project_identity(prepared, self.encode_photos(prepared))

    def encode_photos(self, prepared: Sequence[PuLIDPrepared]) -> Tensor | None:
        """The tokens (P, 10, width) of all photos of the batch; None without an identity."""
        if not prepared[0].has_identity:
            return None
        crops = [crop for p in prepared for crop in p.crops]
        embeddings = [embedding for p in prepared for embedding in p.embeddings]
        nets = (self.face_parser, self.eva, self.id_encoder)
        key = ("tokens", digest(*crops, *embeddings))
        return self.remembered(key, nets, lambda: encode_photos(nets, crops, embeddings))

    def project_identity(self, prepared: Sequence[PuLIDPrepared], tokens: Tensor | None) -> Identity | None:
        """Keys and values of the tokens that `encode_photos` gave."""
        if tokens is None:
            return None
        photos = tokens.split([len(p.crops) for p in prepared])
        nobody = self.unconditional_identity.to(tokens.device)
        conditional = [merge_photos(tokens, p.request.id_mix) for p, tokens in zip(prepared, photos, strict=True)]
        unconditional = [merge_photos(nobody.expand(len(p.crops), -1, -1), p.request.id_mix) for p in prepared]
        halves = stack_halves(prepared, unconditional, conditional)
        scales = weight_of(self.unet).new_tensor([p.request.id_scale for p in prepared])
        mode = MODES[prepared[0].request.mode]
        scale = stack_halves(prepared, list(scales), list(scales)).view(-1, 1, 1, 1)
        return Identity(self.identity_layers(halves, mode), scale, mode)

    def encode_prompt(self, prepared: Sequence[PuLIDPrepared]) -> Prompt:
        """Both encoders on all texts of the batch at once: tokens (B, 77, 2048), pooled (B, 1280)."""
        texts = [p.request.negative_prompt for p in prepared] + [p.request.prompt for p in prepared]
        encoders = (self.text_encoder, self.text_encoder_2)
        tokenizers = (self.tokenizer, self.tokenizer_2)
        both = self.remembered(("text", *texts), encoders, lambda: encode_texts(tokenizers, encoders, texts))
        tokens, pooled = (list(x) for x in (both.tokens, both.pooled))
        n = len(prepared)
        return Prompt(
            stack_halves(prepared, tokens[:n], tokens[n:]),
            stack_halves(prepared, pooled[:n], pooled[n:]),
        )

    def draw_latents(self, prepared: Sequence[PuLIDPrepared]) -> Tensor:
        """Initial noise of every picture: picture i of a request is the i-th draw of that request's generator."""
        noise = []
        for p in prepared:
            generator = torch.Generator().manual_seed(p.seed)
            noise.append(draw_noise((4, p.request.height // 8, p.request.width // 8), generator, p.request.num_images))
        return torch.cat(noise).to(weight_of(self.unet).device)

    def make_step(
        self, prepared: Sequence[PuLIDPrepared], prompt: Prompt, identity: Identity | None, latents: Tensor
    ) -> Step:
        """Project and place everything constant, then return the step: static shapes, no device sync."""
        request, guided = prepared[0].request, prepared[0].guided
        unet = self.unet
        table = dpm_table(self.scheduler, request.num_inference_steps, latents.device)
        sizes = time_ids(request.width, request.height, len(prompt.pooled), prompt.pooled)
        scales = [p.request.guidance_scale for p in prepared for _ in range(p.request.num_images)]
        run = self.runner.bind(
            PuLIDStep(
                unet=unet,
                context=Context(text_keys_values(unet, prompt.tokens), identity),
                added={"text_embeds": prompt.pooled, "time_ids": sizes},
                guidance=latents.new_tensor(scales).view(-1, 1, 1, 1) if guided else None,
                dtype=weight_of(unet).dtype,
            )
        )
        previous = torch.zeros_like(latents)

        def step(latents: Tensor, i: int) -> Tensor:
            nonlocal previous
            latents, previous = run(table.timesteps[i], table.coefficients[i], latents, previous)
            return latents

        return step

    def __call__(  # noqa: PLR0913  diffusers' argument names
        self,
        prompt: str,
        image: Image.Image | Sequence[Image.Image] = (),
        negative_prompt: str | None = None,
        height: int = 1024,
        width: int = 768,
        num_inference_steps: int = 4,
        guidance_scale: float = 1.2,
        num_images_per_prompt: int = 1,
        seed: int | None = None,
        id_scale: float = 0.8,
        mode: Literal["fidelity", "extreme style"] = "fidelity",
        id_mix: bool = False,
        output_type: Literal["pil", "latent"] = "pil",
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], Any] | None = None,
    ) -> list[Image.Image] | list[Tensor]:
        """Prepare and generate in one call, for notebooks; `image` is one or several photos of the person."""
        request = PuLIDRequest(
            prompt=prompt,
            num_images=num_images_per_prompt,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            seed=seed,
            width=width,
            height=height,
            id_scale=id_scale,
            mode=mode,
            id_mix=id_mix,
        )
        if negative_prompt is not None:
            request = replace(request, negative_prompt=negative_prompt)
        images = [image] if isinstance(image, Image.Image) else list(image)

        return self.generate_one(self.prepare(request, images), output_type, callback_on_step_end)
