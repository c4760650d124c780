"""Checkpoints in every layout and precision that people have them in, on the tiny weights."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.checkpoint import load_state, read_tensors
from pipelines.endpoint import Picture
from pipelines.errors import BadPicture, LoadError
from pipelines.instantid.lora import read_lora
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.prepare import prepare
from pipelines.profile import Profile
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.sdxl.decode import decode, deliver
from pipelines.sdxl.load import empty_net, load_parts, load_unet, read_tokenizer, read_vae
from tests.single_file import write_single_file

TINY = Path(__file__).parents[2] / "weights" / "tiny"
BASE = TINY / "instantid" / "base"
CPU = Profile(device="cpu", dtype="float32")
FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class NoFaces:
    """Loading asks for no face."""

    def largest(self, image: object, retry: object = True) -> None: ...

    crop = largest


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A copy of the tiny SDXL base, to be changed."""
    return Path(shutil.copytree(BASE, tmp_path / "base"))


def convert(folder: Path, dtype: torch.dtype) -> None:
    """Keep every safetensors file and every pickle below `folder` in another precision."""
    for file in folder.rglob("*.safetensors"):
        save_file({key: cast(tensor, dtype) for key, tensor in load_file(file).items()}, file)
    for file in (file for file in folder.rglob("*") if file.suffix in {".bin", ".pt", ".pth"}):
        torch.save({key: cast(value, dtype) for key, value in torch.load(file, weights_only=True).items()}, file)


def cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {key: cast(one, dtype) for key, one in value.items()}
    return value.to(dtype) if value.is_floating_point() else value


def tensors_of(pipeline: Any) -> dict[str, torch.Tensor]:
    nets = {name: net for name, net in pipeline.components.items() if isinstance(net, nn.Module)}
    return {f"{name}.{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks hold equal numbers under the same names."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("kept", "wanted"),
    [("float32", "float16"), ("bfloat16", "float16"), ("float16", "bfloat16"), ("bfloat16", "float32")],
)
@pytest.mark.parametrize("kind", [InstantIDPipeline, PuLIDPipeline])
def test_files_of_any_precision_give_the_profiles(tmp_path: Path, kind: Any, kept: str, wanted: str) -> None:
    name = "instantid" if kind is InstantIDPipeline else "pulid"
    shutil.copytree(TINY / name, tmp_path / name)
    convert(tmp_path / name, FLOATS[kept])
    profile = Profile(device="cpu", dtype=wanted)

    found = tensors_of(kind.load(tmp_path / name, profile, faces=NoFaces()))
    right = tensors_of(kind.load(TINY / name, profile, faces=NoFaces()))
    assert {key: value.dtype for key, value in found.items()} == {key: value.dtype for key, value in right.items()}
    for key, value in found.items():
        torch.testing.assert_close(value, right[key], rtol=0.02, atol=0.02, msg=key)


def test_numbers_of_another_kind_are_refused_by_name(base: Path) -> None:
    file = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "conv_in.bias": tensors["conv_in.bias"].to(torch.float8_e4m3fn)}, file)
    with pytest.raises(LoadError, match=r"diffusion_pytorch_model\.safetensors holds conv_in\.bias as F8_E4M3"):
        load_unet(base, Profile(device="meta"))


def test_a_file_that_was_cut_short_is_named(base: Path) -> None:
    file = base / "unet" / "diffusion_pytorch_model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 100)
    with pytest.raises(LoadError, match=r"diffusion_pytorch_model\.safetensors cannot be read"):
        load_unet(base, Profile(device="meta"))


def test_a_config_that_describes_no_network_is_named(base: Path) -> None:
    (base / "vae" / "config.json").write_text("<!DOCTYPE html>")
    with pytest.raises(LoadError, match=r"vae/config\.json does not describe a AutoencoderKL"):
        load_parts(base, CPU)


class RunsOnUnpickling:
    """A pickle of it makes a folder when it is opened carelessly."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trap),)


def test_code_in_a_pickle_is_not_run_and_nobody_is_told_to(tmp_path: Path) -> None:
    torch.save({"weight": RunsOnUnpickling(tmp_path / "trap")}, tmp_path / "model.bin")
    for device in ("cpu", "meta"):
        with pytest.raises(LoadError, match=r"model\.bin was not read: .* could run code") as caught:
            read_tensors(tmp_path / "model.bin", device)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3, "name": "x"}])
def test_old_pickles_and_those_of_training_programs_are_read(tmp_path: Path, modern: bool, wrap: Any) -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": {"c": torch.ones(4)}}
    torch.save(wrap(state), tmp_path / "model.pt", _use_new_zipfile_serialization=modern)
    read = read_tensors(tmp_path / "model.pt")
    assert torch.equal(read["a"], state["a"])
    assert torch.equal(read["b"]["c"], state["b"]["c"])
    empty = read_tensors(tmp_path / "model.pt", "meta")
    assert (empty["a"].device.type, empty["a"].shape, empty["b"]["c"].shape) == ("meta", (2, 3), (4,))


def test_converted_pickles_are_read_instead_and_are_the_same(tmp_path: Path) -> None:
    for name, kind in (("instantid", InstantIDPipeline), ("pulid", PuLIDPipeline)):
        folder = Path(shutil.copytree(TINY / name, tmp_path / name))
        for pickle in [file for file in folder.rglob("*") if file.suffix in {".bin", ".pt", ".pth"}]:
            converted = pickle.with_suffix(".safetensors")
            prepare(converted, torch.float32)
            assert load_state(converted.with_suffix(""))[1] == converted
            pickle.unlink()
        found = tensors_of(kind.load(folder, CPU, faces=NoFaces()))
        right = tensors_of(kind.load(TINY / name, CPU, faces=NoFaces()))
        assert found.keys() == right.keys()
        assert all(torch.equal(value, right[key]) for key, value in found.items())


def test_a_base_in_one_file_is_the_same_network(base: Path) -> None:
    write_single_file(BASE, base.with_name("base.safetensors"))
    for file in base.rglob("*.safetensors"):
        file.unlink()
    assert same(load_unet(base, CPU), load_unet(BASE, CPU))
    found, right = load_parts(base, CPU), load_parts(BASE, CPU)
    for name in ("vae", "text_encoder", "text_encoder_2"):
        assert same(getattr(found, name), getattr(right, name)), name


def test_a_base_in_one_file_that_lacks_a_tensor_is_named(base: Path) -> None:
    single = base.with_name("base.safetensors")
    write_single_file(BASE, single)
    tensors = load_file(single)
    del (
        tensors["model.diffusion_model.middle_block.1.proj_in.weight"],
        tensors["model.diffusion_model.label_emb.0.0.bias"],
    )
    save_file(tensors, single)
    with pytest.raises(LoadError, match=r"base\.safetensors is no SDXL checkpoint in one file: its unet lacks"):
        load_unet(base, CPU)
    tensors["model.diffusion_model.label_emb.0.0.bias"] = torch.zeros(64)
    save_file(tensors, single)
    missing = (
        r"base\.safetensors does not fit UNet2DConditionModel: mid_block\.attentions\.0\.proj_in\.weight is missing"
    )
    with pytest.raises(LoadError, match=missing):
        load_unet(base, CPU)


def test_shards_are_one_network(base: Path) -> None:
    folder = base / "unet"
    whole = folder / "diffusion_pytorch_model.safetensors"
    tensors = sorted(load_file(whole).items())
    whole.unlink()
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, part in zip(names, (tensors[:100], tensors[100:]), strict=True):
        save_file(dict(part), folder / name)
    index = {key: names[i >= 100] for i, (key, _) in enumerate(tensors)}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert same(load_unet(base, CPU), load_unet(BASE, CPU))

    (folder / names[1]).unlink()
    with pytest.raises(LoadError, match=rf"{names[1]} is missing"):
        load_unet(base, CPU)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("[]")
    with pytest.raises(LoadError, match="is no index of shards"):
        load_unet(base, CPU)


def test_the_table_of_positions_that_old_text_encoders_saved_is_passed_over(base: Path) -> None:
    file = base / "text_encoder" / "model.safetensors"
    table = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(load_file(file) | table, file)
    assert same(load_parts(base, CPU).text_encoder, load_parts(BASE, CPU).text_encoder)


@pytest.mark.parametrize("lacking", ["vocab.json", "merges.txt"])
def test_a_tokenizer_without_its_words_is_refused(base: Path, lacking: str) -> None:
    (base / "tokenizer" / lacking).unlink()
    with pytest.raises(LoadError, match=rf"tokenizer/{lacking} is missing"):
        read_tokenizer(base / "tokenizer")


def test_a_lora_for_another_network_is_refused(tmp_path: Path) -> None:
    unet = empty_net(UNet2DConditionModel, BASE / "unet")
    save_file({"lora_te_layer.alpha": torch.zeros(())}, tmp_path / "lora.safetensors")
    with pytest.raises(LoadError, match=r"lora\.safetensors holds no LoRA for this UNet"):
        read_lora(tmp_path / "lora.safetensors", unet, "cpu")


@pytest.mark.parametrize(
    ("wanted", "upcast", "fixed", "dtype"),
    [
        ("float16", True, False, torch.float32),
        ("bfloat16", True, False, torch.float32),
        ("float16", False, False, torch.float16),
        ("float16", True, True, torch.float16),
        ("bfloat16", True, True, torch.float16),
        ("float32", True, True, torch.float32),
    ],
)
def test_the_vae_is_in_half_precision_only_when_made_for_it(
    base: Path, wanted: Any, upcast: bool, fixed: bool, dtype: torch.dtype
) -> None:
    config = json.loads((base / "vae" / "config.json").read_text())
    if fixed:
        shutil.copytree(base / "vae", base / "vae-fp16-fix")
        (base / "vae-fp16-fix" / "config.json").write_text(json.dumps(config | {"force_upcast": False}))
    (base / "vae" / "config.json").write_text(json.dumps(config | {"force_upcast": upcast}))
    vae = read_vae(base, Profile(device="cpu", dtype=wanted))
    assert vae.dtype == dtype
    assert vae.config["force_upcast"] == (upcast and (not fixed or wanted == "float32"))


@pytest.fixture
def overflowing(base: Path) -> Any:
    """A float16 VAE whose activations leave float16's range, though its weights and its pictures do not."""
    config = json.loads((base / "vae" / "config.json").read_text())
    (base / "vae" / "config.json").write_text(json.dumps(config | {"force_upcast": False}))
    file = base / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    weight = tensors["decoder.conv_in.weight"].float()
    tensors["decoder.conv_in.weight"] = (weight * 60000 / weight.abs().max()).half()
    save_file(tensors, file)
    return read_vae(base, Profile(device="cpu", dtype="float16"))


@torch.inference_mode()
def test_a_picture_that_overflows_in_half_precision_is_decoded_again_in_float32(overflowing: Any, base: Path) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    before = {key: value.clone() for key, value in overflowing.state_dict().items()}
    whole = read_vae(base, CPU)
    assert not torch.isfinite(overflowing.decode((latents / 0.13025).half()).sample).all()

    for image, right in zip(decode(overflowing, latents), decode(whole, latents), strict=True):
        torch.testing.assert_close(image, right, rtol=1e-4, atol=1e-4)
    assert overflowing.dtype == torch.float16
    assert all(torch.equal(value, before[key]) for key, value in overflowing.state_dict().items())


@torch.inference_mode()
def test_what_is_not_finite_in_float32_either_is_no_picture(overflowing: Any) -> None:
    latents = torch.full((1, 4, 8, 8), float("nan"))
    with pytest.raises(BadPicture, match="not finite"):
        deliver(latents, decode(overflowing, latents), [1], [None], "uint8")


@torch.inference_mode()
def test_a_good_picture_is_decoded_once_in_half_precision(base: Path) -> None:
    shutil.copytree(base / "vae", base / "vae-fp16-fix")
    config = json.loads((base / "vae" / "config.json").read_text())
    (base / "vae-fp16-fix" / "config.json").write_text(json.dumps(config | {"force_upcast": False}))
    vae = read_vae(base, Profile(device="cpu", dtype="float16"))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    (image,) = decode(vae, latents)
    assert torch.equal(image, vae.decode((latents / vae.config["scaling_factor"]).half()).sample[0].float())
    (picture,) = deliver(latents, [image], [1], [None], "uint8")
    assert isinstance(picture, Picture)
