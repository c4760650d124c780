"""Base models beside the default one, on copies of the tiny weights: chosen by name, loaded once, never downloaded."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.errors import LoadError, NotOneOf
from pipelines.instantid.bases import Base
from pipelines.instantid.endpoint import InstantidLcmInput
from pipelines.instantid.pipeline import InstantIDPipeline
from tests.single_file import write_single_file
from tests.unit.test_instantid_pipeline import PHOTO, PROFILE, REQUEST, WEIGHTS, OneFace, raw

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


def scale_weights(file: Path, factor: float) -> None:
    save_file({key: tensor * factor for key, tensor in load_file(file).items()}, file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InstantID's folder with a base that is only a UNet, a whole one, and the default one in a single file."""
    folder = tmp_path_factory.mktemp("weights") / "instantid"
    shutil.copytree(WEIGHTS, folder)
    bases = folder / "bases"
    (bases / "sharper" / "unet").mkdir(parents=True)
    shutil.copy(WEIGHTS / "base" / UNET, bases / "sharper" / UNET)
    scale_weights(bases / "sharper" / UNET, 1.1)
    shutil.copytree(WEIGHTS / "base", bases / "whole")
    scale_weights(bases / "whole" / "text_encoder" / "model.safetensors", 1.1)
    write_single_file(WEIGHTS / "base", bases / "one file.safetensors")
    (bases / ".cache").mkdir()
    (bases / "readme.txt").write_text("not a base")
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> InstantIDPipeline:
    torch.set_num_threads(1)
    return InstantIDPipeline.load(folder, PROFILE, faces=OneFace())


def latents(pipeline: InstantIDPipeline, name: str | None) -> torch.Tensor:
    return raw(pipeline, replace(REQUEST, model_name=name))[0].latents


def test_what_lies_in_the_folder_is_registered(pipeline: InstantIDPipeline) -> None:
    assert pipeline.bases.names == ("one file", "sharper", "whole")


@pytest.mark.parametrize("name", ["sharper", "whole"])
def test_a_base_makes_another_picture_and_leaves_the_default_as_it_was(pipeline: InstantIDPipeline, name: str) -> None:
    before = latents(pipeline, None)
    other = latents(pipeline, name)
    assert (other - before).abs().max() > 1e-3 * before.abs().max()
    assert torch.equal(latents(pipeline, None), before)


def base(pipeline: InstantIDPipeline, name: str) -> Base:
    return pipeline.base([pipeline.prepare(replace(REQUEST, model_name=name), [PHOTO])])


def test_a_base_brings_its_own_parts_and_takes_the_rest_from_the_default(pipeline: InstantIDPipeline) -> None:
    sharper = base(pipeline, "sharper")
    assert sharper.unet is not pipeline.unet
    assert sharper.text_encoder is pipeline.text_encoder
    assert sharper.vae is pipeline.vae
    whole = base(pipeline, "whole")
    assert whole.text_encoder is not pipeline.text_encoder
    assert whole.text_encoder_2 is pipeline.text_encoder_2, "a copy of the default's file"


def test_a_base_with_the_defaults_numbers_makes_the_defaults_picture(pipeline: InstantIDPipeline) -> None:
    """The LoRA is fused into it, too, whatever layout it is in."""
    torch.testing.assert_close(latents(pipeline, "one file"), latents(pipeline, None), rtol=1e-5, atol=1e-5)


def test_a_base_is_read_once_and_gives_way_to_the_next(pipeline: InstantIDPipeline) -> None:
    latents(pipeline, "sharper")
    unet = weakref.ref(pipeline.bases.take("sharper")["unet"])
    for name in ("sharper", None, "sharper"):
        latents(pipeline, name)
    assert pipeline.bases.take("sharper")["unet"] is unet()
    latents(pipeline, "whole")
    gc.collect()
    assert unet() is None


def test_requests_for_different_bases_are_never_one_batch(pipeline: InstantIDPipeline) -> None:
    prepared = [pipeline.prepare(replace(REQUEST, model_name=name), [PHOTO]) for name in (None, "sharper", "whole")]
    assert len({p.batch_key for p in prepared}) == 3


@pytest.mark.parametrize(
    "name",
    [
        "../base",
        "..",
        ".",
        ".cache",
        "sharper/",
        "SHARPER",
        "sharper/../whole",
        "one file.safetensors",
        "readme.txt",
        "/etc/passwd",
        "https://example.com/model.safetensors",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "sharper\0",
    ],
)
def test_any_other_name_is_refused_with_those_that_there_are(pipeline: InstantIDPipeline, name: str) -> None:
    with pytest.raises(NotOneOf) as caught:
        pipeline.prepare(replace(REQUEST, model_name=name), [PHOTO])
    assert caught.value.loc == ("model_name",)
    assert caught.value.ctx == {"expected": ["one file", "sharper", "whole"]}


@pytest.mark.parametrize("field", ["model_name", "base_model", "model_url"])
def test_the_field_has_the_names_that_clients_may_know(field: str) -> None:
    given = {"face_image_url": "https://example.com/a.png", "prompt": "x", field: "sharper"}
    assert InstantidLcmInput.model_validate(given).request().model_name == "sharper"
    assert InstantidLcmInput.model_validate(given | {field: ""}).request().model_name is None


def truncate(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 100)


def widen(file: Path) -> None:
    tensors = load_file(file)
    save_file(tensors | {"conv_in.bias": torch.zeros(7)}, file)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, r"bases/broken/unet/diffusion_pytorch_model\.safetensors cannot be read"),
        (widen, r"bases/broken/unet/.*conv_in\.bias is \[7\] there and"),
        (Path.unlink, r"bases/broken/unet/diffusion_pytorch_model\.\* is missing"),
    ],
)
def test_a_base_that_does_not_fit_stops_the_start(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    for part in WEIGHTS.iterdir():
        (tmp_path / part.name).symlink_to(part)
    shutil.copytree(WEIGHTS / "base" / "unet", tmp_path / "bases" / "broken" / "unet")
    spoil(tmp_path / "bases" / "broken" / UNET)
    with pytest.raises(LoadError, match=message):
        InstantIDPipeline.load(tmp_path, PROFILE, faces=OneFace())


def test_an_own_vae_is_described_by_its_own_config(tmp_path: Path) -> None:
    for part in WEIGHTS.iterdir():
        (tmp_path / part.name).symlink_to(part)
    for part in ("unet", "vae"):
        shutil.copytree(WEIGHTS / "base" / part, tmp_path / "bases" / "other" / part)
    file = tmp_path / "bases" / "other" / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scaling_factor": 0.5}))
    pipeline = InstantIDPipeline.load(tmp_path, PROFILE, faces=OneFace())
    (default,), (other,) = raw(pipeline, REQUEST), raw(pipeline, replace(REQUEST, model_name="other"))
    torch.testing.assert_close(other.latents, default.latents, rtol=1e-5, atol=1e-5)
    assert (other.image - default.image).abs().max() > 1e-3


def test_the_call_takes_a_base_by_name(pipeline: InstantIDPipeline) -> None:
    options: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 2, "seed": 7, "output_type": "latent"}
    found: Any = pipeline("a man smiling", PHOTO, model_name="sharper", **options)[0]
    assert torch.equal(found, latents(pipeline, "sharper"))
