"""Our own pipelines as columns: eager, and with what `Speed` switches on."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pipelines.endpoint import OnStep
from pipelines.instantid.controls import Estimators, control_image
from pipelines.instantid.endpoint import Control
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.sdxl.attention import Identity
from pipelines.sdxl.decode import decode, to_pixels
from scripts.gpu.columns import Column, Pixels, never, quietly
from scripts.gpu.encoders import servers_encoder
from scripts.gpu.models import SIZES, Model, check_finite, photo, prepared
from scripts.gpu.networks import Kit

BATCHES = {"full": (1, 4), "tiny": (1, 2)}

Pipeline = InstantIDPipeline | PuLIDPipeline


def our_column(name: str, kit: Kit, model: Model, pipeline: Pipeline) -> Column:
    """The pipeline on default requests, each with a seed of its own."""
    requests = [prepared(pipeline, kit, seed=seed) for seed in range(max(BATCHES[kit.size]))]
    encoder, encode = servers_encoder()
    return Column(
        name=name,
        model=model,
        parts=lambda: parts_of(pipeline, kit, requests),
        run=runner(pipeline, requests),
        latents=lambda: final_latents(pipeline, requests[:1]),
        encode=encode,
        encoder=encoder,
        batches=BATCHES[kit.size],
    )


def runner(pipeline: Pipeline, requests: Sequence[Any]) -> Callable[[int, OnStep], list[Pixels]]:
    """The first `batch` of these requests as one batch, to pixels on the host."""

    def run(batch: int, on_step: OnStep) -> list[Pixels]:
        answers = pipeline.generate(requests[:batch], on_step)
        return [picture.image for answer in answers for picture in answer]

    return run


def final_latents(pipeline: Pipeline, requests: Sequence[Any]) -> Tensor:
    """What the loop leaves for the VAE, float32."""
    return pipeline.generate(requests, never, "raw")[0][0].latents.float()


def parts_of(pipeline: Pipeline, kit: Kit, requests: Sequence[Any]) -> dict[str, Callable[[], object]]:
    """What can be timed alone, after a look at what each stage gives."""
    one, latents = requests[:1], final_latents(pipeline, requests[:1])[None]
    encode_face = pipeline.encode_face if isinstance(pipeline, InstantIDPipeline) else pipeline.encode_identity
    quietly(lambda: check_stages(pipeline, encode_face(one), one, latents))()
    parts: dict[str, Callable[[], object]] = {
        "face nets": quietly(lambda: encode_face(one)),
        "text": quietly(lambda: pipeline.encode_prompt(one)),
        "VAE": quietly(lambda: [to_pixels(image) for image in decode(pipeline.vae, latents, pipeline.runner)]),
    }
    return control_part(kit) | parts if isinstance(pipeline, InstantIDPipeline) else parts


def check_stages(pipeline: Pipeline, face: Any, requests: Sequence[Any], latents: Tensor) -> None:
    """Raises ArithmeticError when what any stage gives is not what a network makes."""
    prompt = pipeline.encode_prompt(requests)
    check_finite("text tokens", prompt.tokens)
    check_finite("pooled text", prompt.pooled)
    check_finite("face tokens", face.layers[0].keys if isinstance(face, Identity) else face)
    check_finite("latents", latents)
    check_finite("picture", decode(pipeline.vae, latents)[0])


def control_part(kit: Kit) -> dict[str, Callable[[], object]]:
    """Drawing the canny image of a photo, on the CPU."""
    size, control = SIZES[kit.size, "instantid"], Control("canny", 0.4)
    picture, estimators = photo(size), Estimators()
    return {"control image": lambda: control_image(control, picture, size, estimators)}
