"""InstantIDPipeline on the tiny weights: batches, constant work, what every field does, what is refused."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image

from pipelines.errors import BadPicture, Cancelled, FaceNotFound, InputError, LoadError
from pipelines.faces.analysis import Face
from pipelines.instantid.endpoint import Control, InstantIDRequest
from pipelines.instantid.load import load_control_nets
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.sdxl.attention import cross_attentions

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "weights/tiny/instantid"
PROFILE = Profile(device="cpu", dtype="float32", detector="haar", max_side=256, tiny=True)
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
KPS = np.array([[24, 24], [40, 24], [32, 34], [26, 44], [38, 44]], np.float32)
REQUEST = InstantIDRequest("a man smiling", size=(64, 64), num_inference_steps=2, seed=7, style="(No style)")


class OneFace:
    """Finds the same face in every photo but an all-black one; the photo's first pixel tells who it is."""

    def largest(self, image: Image.Image, retry: bool = True) -> Face | None:
        if not np.asarray(image).any():
            return None
        embedding = np.random.default_rng(int(np.asarray(image)[0, 0, 0])).normal(0, 0.8, 512).astype(np.float32)
        return Face(np.array([-3, 8, 50, 56], np.float32), KPS, 1.0, embedding)


def keep_going(step: int, total: int) -> bool:
    return False


@pytest.fixture(scope="module")
def pipeline() -> InstantIDPipeline:
    torch.set_num_threads(1)
    return InstantIDPipeline.load(WEIGHTS, PROFILE, faces=OneFace())


def raw(pipeline: InstantIDPipeline, *requests: InstantIDRequest, photo: Image.Image | None = PHOTO) -> list:
    prepared = [pipeline.prepare(request, [photo] if photo else []) for request in requests]
    assert len({p.batch_key for p in prepared}) == 1
    return [pictures[0] for pictures in pipeline.generate(prepared, keep_going, "raw")]


def difference(a, b) -> float:
    return float((a.latents - b.latents).abs().max() / b.latents.abs().max())


def test_pictures_of_a_batch_equal_those_made_alone(pipeline: InstantIDPipeline) -> None:
    requests = [
        REQUEST,
        replace(REQUEST, seed=8, guidance_scale=1.2, prompt="a (man:1.4) ugly", ip_adapter_scale=0.3),
        replace(REQUEST, seed=9, identity_controlnet_conditioning_scale=0.2, controls=(Control("canny", 1.0),)),
    ]
    together = raw(pipeline, *requests)
    for request, picture in zip(requests, together, strict=True):
        (alone,) = raw(pipeline, request)
        assert difference(picture, alone) <= 1e-5
        assert (picture.image - alone.image).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "ugly"},
        {"style": "Watercolor"},
        {"negative_prompt": "blurry"},
        {"num_inference_steps": 3},
        {"guidance_scale": 1.4},
        {"controls": ()},
        {"controls": (Control("canny", 0.5),)},
        {"controls": (Control("canny", 0.4), Control("pose", 0.4, PHOTO))},
        {"controls": (Control("depth", 0.4, PHOTO),)},
        {"ip_adapter_scale": 0.6},
        {"identity_controlnet_conditioning_scale": 0.6},
        {"enhance_face_region": False},
        {"seed": 8},
    ],
    ids="-".join,
)
def test_every_field_changes_the_picture(pipeline: InstantIDPipeline, change: dict) -> None:
    (before,), (after,) = raw(pipeline, REQUEST), raw(pipeline, replace(REQUEST, **change))
    assert difference(after, before) > 1e-3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"controls": ()}, {"controls": (Control("canny", 0.0),)}),
        ({"controls": ()}, {"controls": (Control("pose", 0.0),)}),
        ({"guidance_scale": 0.0}, {"guidance_scale": 1.0}),
    ],
    ids=str,
)
def test_what_is_off_is_exactly_off(pipeline: InstantIDPipeline, one: dict, other: dict) -> None:
    (a,), (b,) = raw(pipeline, replace(REQUEST, **one)), raw(pipeline, replace(REQUEST, **other))
    assert torch.equal(a.latents, b.latents)


def test_without_a_photo_there_is_no_identity(pipeline: InstantIDPipeline) -> None:
    off = replace(REQUEST, ip_adapter_scale=0, identity_controlnet_conditioning_scale=0, controls=())
    (nobody,), (switched_off,) = raw(pipeline, replace(REQUEST, controls=()), photo=None), raw(pipeline, off)
    assert torch.equal(nobody.latents, switched_off.latents)
    with pytest.raises(InputError, match="size must be given"):
        pipeline.prepare(replace(REQUEST, size=None, controls=()), [])


def test_a_size_that_no_power_of_two_divides_is_drawn(pipeline: InstantIDPipeline) -> None:
    (picture,) = raw(pipeline, replace(REQUEST, size=(72, 104)))
    assert picture.image.shape == (3, 104, 72)


@contextmanager
def counted(pipeline: InstantIDPipeline) -> Iterator[Counter]:
    """Counts the calls of everything that no step changes."""
    calls: Counter = Counter()
    nets = {"unet": pipeline.unet, "identity_net": pipeline.identity_net, "canny": pipeline.controlnets["canny"]}
    modules = {"text encoder": pipeline.text_encoder, "resampler": pipeline.resampler}
    for name, net in nets.items():
        for layer, attn in enumerate(cross_attentions(net)):
            modules |= {f"{name} {layer} to_k": attn.to_k, f"{name} {layer} to_v": attn.to_v}
        if name != "unet":
            modules[f"{name} condition"] = net.condition_embedding
    for name, module in pipeline.identity_layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            modules[f"identity {name}"] = module
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, module in modules.items()
    ]
    yield calls
    for handle in handles:
        handle.remove()
    assert set(calls) == set(modules)


def test_text_identity_and_control_images_are_projected_once_per_request(pipeline: InstantIDPipeline) -> None:
    with counted(pipeline) as calls:
        raw(pipeline, replace(REQUEST, num_inference_steps=4))
    assert len(calls) > 100
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_everything_up_to_the_last_step_reads_no_tensor_on_the_host(guidance: float) -> None:
    pipeline = InstantIDPipeline.load(WEIGHTS, PROFILE, faces=OneFace())
    prepared = [pipeline.prepare(replace(REQUEST, guidance_scale=guidance), [PHOTO])]
    pipeline.to("meta")  # meta tensors have no values: reading one raises
    with torch.inference_mode():
        latents, *fresh = pipeline.draw_latents(prepared)
        face, prompt = pipeline.encode_face(prepared), pipeline.encode_prompt(prepared)
        step = pipeline.make_step(prepared, prompt, face, fresh)
        with pytest.raises((RuntimeError, NotImplementedError)):
            latents.sum().item()
        for i in range(2):
            latents = step(latents, i)
    assert (latents.device.type, latents.shape, latents.dtype) == ("meta", (1, 4, 8, 8), torch.float32)


def test_fusing_leaves_no_lora_layer_behind(pipeline: InstantIDPipeline) -> None:
    assert not any(isinstance(module, BaseTunerLayer) for module in pipeline.unet.modules())


def test_cancelling_stops_after_the_step_at_hand(pipeline: InstantIDPipeline) -> None:
    steps = []
    with pytest.raises(Cancelled):
        pipeline.generate(
            [pipeline.prepare(REQUEST, [PHOTO])], lambda step, total: bool(steps.append((step, total))) or 1
        )
    assert steps == [(1, 2)]


def test_a_picture_is_uint8_and_says_its_seed(pipeline: InstantIDPipeline) -> None:
    prepared = pipeline.prepare(replace(REQUEST, seed=None), [PHOTO])
    ((picture,),) = pipeline.generate([prepared], keep_going)
    assert (picture.image.shape, picture.image.dtype) == ((64, 64, 3), np.uint8)
    (again,) = raw(pipeline, replace(REQUEST, seed=picture.seed))
    pixels = ((again.image / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(pixels - picture.image).max() <= 1


def test_not_a_number_is_an_error_and_no_picture(pipeline: InstantIDPipeline) -> None:
    prepared = pipeline.prepare(replace(REQUEST, ip_adapter_scale=float("nan")), [PHOTO])
    with pytest.raises(BadPicture):
        pipeline.generate([prepared], keep_going)


@pytest.mark.parametrize(
    ("change", "loc", "kind"),
    [
        ({"model_name": "other"}, ("model_name",), "one_of"),
        ({"style": "Baroque"}, ("style",), "one_of"),
        ({"num_inference_steps": 51}, ("num_inference_steps",), "value_error"),
        ({"size": (60, 64)}, ("size",), "value_error"),
        ({"prompt": "(" * 101}, ("prompt",), "value_error"),
        ({"negative_prompt": "(a:70000)"}, ("negative_prompt",), "value_error"),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_used_is_named(pipeline: InstantIDPipeline, change: dict, loc: tuple, kind: str) -> None:
    with pytest.raises(InputError) as caught:
        pipeline.prepare(replace(REQUEST, **change), [PHOTO])
    assert (caught.value.loc, caught.value.type) == (loc, kind)


def test_a_photo_without_a_face_is_refused(pipeline: InstantIDPipeline) -> None:
    with pytest.raises(FaceNotFound) as caught:
        pipeline.prepare(REQUEST, [Image.new("RGB", (64, 64))])
    assert caught.value.loc == ("face_image_url",)


def test_a_real_photo_is_found_sized_and_drawn() -> None:
    pipeline = InstantIDPipeline.load(WEIGHTS, PROFILE)
    with Image.open(ROOT / "scripts/data/astronaut.png") as photo:
        (image,) = pipeline("a man smiling", photo, style="Headshot", num_inference_steps=2)
    assert max(image.size) == PROFILE.max_side


def test_the_call_speaks_diffusers_names(pipeline: InstantIDPipeline) -> None:
    steps = []
    (latents,) = pipeline(
        "a man smiling",
        PHOTO,
        height=64,
        width=64,
        num_inference_steps=2,
        seed=7,
        output_type="latent",
        callback_on_step_end=lambda pipe, step, *_: steps.append(step),
    )
    assert steps == [0, 1]
    assert torch.equal(latents, raw(pipeline, REQUEST)[0].latents)
    with pytest.raises(ValueError, match="both"):
        pipeline("a man", PHOTO, height=64)


def test_saving_is_refused_with_the_way_that_works(pipeline: InstantIDPipeline) -> None:
    with pytest.raises(NotImplementedError, match="veraicon weights prepare"):
        pipeline.save_pretrained("anywhere")


def test_every_network_moves_with_the_pipeline(pipeline: InstantIDPipeline) -> None:
    assert {"identity_layers", "resampler", "identity_net", "controlnets", "unet"} <= set(pipeline.components)
    assert "faces" not in pipeline.components
    for name in ("identity_layers", "resampler", "identity_net", "controlnets"):
        assert pipeline.components[name].device == pipeline.unet.device


def test_a_missing_control_net_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="controlnet-canny is missing"):
        load_control_nets(tmp_path, PROFILE)


@pytest.mark.parametrize(
    "file", ["pytorch_lora_weights.safetensors", "ip-adapter", "ControlNetModel", "base/scheduler"]
)
def test_a_missing_checkpoint_is_named(tmp_path: Path, file: str) -> None:
    for source in WEIGHTS.rglob("*"):
        relative = source.relative_to(WEIGHTS)
        if source.is_file() and not str(relative).startswith(file):
            (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / relative).symlink_to(source)
    with pytest.raises(LoadError, match=file):
        InstantIDPipeline.load(tmp_path, PROFILE, faces=OneFace())


def test_the_adapter_is_also_read_from_safetensors(tmp_path: Path, pipeline: InstantIDPipeline) -> None:
    from safetensors.torch import save_file

    for source in WEIGHTS.iterdir():
        if source.name != "ip-adapter.bin":
            (tmp_path / source.name).symlink_to(source)
    nested = torch.load(WEIGHTS / "ip-adapter.bin", weights_only=True)
    flat = {f"{part}.{key}": tensor for part, state in nested.items() for key, tensor in state.items()}
    save_file(flat, tmp_path / "ip-adapter.safetensors")
    other = InstantIDPipeline.load(tmp_path, PROFILE, faces=OneFace())
    assert torch.equal(raw(other, REQUEST)[0].latents, raw(pipeline, REQUEST)[0].latents)
