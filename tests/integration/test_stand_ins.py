"""The real checkpoints' names, layouts and sizes without their data, through the code of the full profile."""

import json
import math
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.catalog import CATALOG
from pipelines.errors import LoadError
from pipelines.faces.analysis import Face
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.pulid.pipeline import PuLIDPipeline
from scripts.make_stand_ins import make_stand_ins, shapes_of, write_pickle, write_safetensors
from tests.server_process import veraicon
from weights.manifest import read_manifest
from weights.store import Shapes, misfits, missing, read_shapes

FILES = {file.target: file for checkpoint in read_manifest().values() for file in checkpoint.files}
NAMES = [name for endpoint in CATALOG for name in endpoint.checkpoints]
PIPELINES: dict[str, Any] = {"instantid": InstantIDPipeline, "pulid": PuLIDPipeline}
FULL = Profile(device="meta", dtype="float16")


class NoFaces:
    """The face models are the one part that has no stand-in: onnxruntime cannot open a hole."""

    def largest(self, image: object, retry: object = True) -> Face | None:
        raise AssertionError("nobody asks while loading")

    crop = largest


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    assert make_stand_ins(folder) == len(FILES)
    return folder


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The same folder by links, to be broken."""
    for target in FILES:
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).hardlink_to(root / target)
    return tmp_path


def load(root: Path, target: str, profile: Profile = FULL) -> Any:
    """The pipeline that `target` belongs to."""
    model = target.split("/", maxsplit=1)[0]
    return PIPELINES[model].load(root / model, profile, faces=NoFaces())


def count(shapes: str, start: str = "") -> int:
    """Numbers in the recorded tensors whose names start like this."""
    return sum(math.prod(shape) for key, (shape, _) in read_shapes(shapes).items() if key.startswith(start))


def networks(pipeline: Any) -> dict[str, torch.nn.Module]:
    return {name: net for name, net in pipeline.components.items() if isinstance(net, torch.nn.Module)}


def parameters(pipeline: Any) -> dict[str, int]:
    """Numbers in each network."""
    return {name: sum(t.numel() for t in net.state_dict().values()) for name, net in networks(pipeline).items()}


@pytest.fixture(scope="module")
def instantid(root: Path) -> Any:
    return load(root, "instantid")


@pytest.fixture(scope="module")
def pulid(root: Path) -> Any:
    return load(root, "pulid")


def test_they_look_like_25_gigabytes_and_take_hardly_any_room(root: Path) -> None:
    sizes = {target: (root / target).stat() for target in FILES}
    assert sum(size.st_size for size in sizes.values()) > 25e9
    assert sum(size.st_blocks * 512 for size in sizes.values()) < 20e6
    for target, file in FILES.items():
        if file.about_mb:
            assert sizes[target].st_size / 1e6 / file.about_mb == pytest.approx(1, abs=0.02), target


def test_one_model_alone_can_be_written(tmp_path: Path) -> None:
    make_stand_ins(tmp_path, "pulid")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["antelopev2", "pulid"]
    (pulid,) = [endpoint for endpoint in CATALOG if endpoint.folder == "pulid"]
    assert missing(pulid.checkpoints, tmp_path) == []


def test_nothing_is_missing_and_every_header_is_the_recorded_one(root: Path) -> None:
    assert missing(NAMES, root) == []
    assert misfits(NAMES, root) == []


def test_instantid_loads_with_exactly_the_recorded_parameters(instantid: Any) -> None:
    assert parameters(instantid) == {
        "vae": count("sdxl_vae"),
        "text_encoder": count("sdxl_text_encoder"),
        "text_encoder_2": count("sdxl_text_encoder_2"),
        "unet": count("sdxl_unet"),
        "identity_layers": count("instantid_ip_adapter", "ip_adapter."),
        "resampler": count("instantid_ip_adapter", "image_proj."),
        "identity_net": count("sdxl_controlnet"),
        "controlnets": 2 * count("sdxl_controlnet") + count("sdxl_controlnet_small"),
    }


def test_pulid_loads_with_exactly_the_recorded_parameters(pulid: Any) -> None:
    assert parameters(pulid) == {
        "vae": count("sdxl_vae"),
        "text_encoder": count("sdxl_text_encoder"),
        "text_encoder_2": count("sdxl_text_encoder_2"),
        "unet": count("sdxl_unet"),
        "identity_layers": count("pulid_v1", "id_adapter_attn_layers."),
        "id_encoder": count("pulid_v1", "id_adapter."),
        "eva": count("eva02_clip_l_336", "visual."),
        "face_parser": count("bisenet"),
    }


@pytest.mark.parametrize("model", PIPELINES)
def test_no_tensor_is_anywhere_but_on_the_meta_device_and_each_has_its_dtype(
    request: pytest.FixtureRequest, model: str
) -> None:
    exact = {"vae", "resampler", "eva", "id_encoder", "face_parser"}  # float32 whatever the profile says
    for name, net in networks(request.getfixturevalue(model)).items():
        assert {tensor.device.type for tensor in [*net.parameters(), *net.buffers()]} == {"meta"}, name
        dtype = torch.float32 if name in exact else torch.float16
        assert {tensor.dtype for tensor in net.parameters()} == {dtype}, name


KINDS = {
    "instantid/base/unet/diffusion_pytorch_model.safetensors": (
        "down_blocks.1.attentions.0.proj_in.weight",
        "conv_in.bias",
    ),
    "instantid/ControlNetModel/diffusion_pytorch_model.safetensors": (
        "mid_block.resnets.0.conv1.weight",
        "controlnet_down_blocks.3.weight",
    ),
    "instantid/pytorch_lora_weights.safetensors": (
        "lora_unet_mid_block_resnets_1_conv2.lora_down.weight",
        "lora_unet_mid_block_resnets_1_conv2.alpha",
    ),
    "instantid/ip-adapter.bin": ("image_proj.layers.1.0.to_kv.weight", "image_proj.norm_out.bias"),
    "pulid/sdxl_lightning/sdxl_lightning_4step_unet.safetensors": ("conv_out.bias", "mid_block.resnets.0.conv1.weight"),
    "pulid/sdxl_base/vae/diffusion_pytorch_model.fp16.safetensors": (
        "decoder.conv_in.weight",
        "post_quant_conv.bias",
    ),
    "pulid/sdxl_base/text_encoder/model.fp16.safetensors": (
        "text_model.encoder.layers.3.mlp.fc1.bias",
        "text_model.final_layer_norm.bias",
    ),
    "pulid/sdxl_base/text_encoder_2/model.fp16.safetensors": (
        "text_projection.weight",
        "text_model.encoder.layers.30.mlp.fc2.weight",
    ),
    "pulid/pulid/pulid_v1.bin": ("id_adapter.mapping_patch_2.3.weight", "id_adapter.body.4.bias"),
    "pulid/eva_clip/EVA02_CLIP_L_336_psz14_s6B.pt": ("visual.blocks.7.attn.q_bias", "visual.norm.weight"),
    "pulid/facexlib/parsing_bisenet.pth": ("ffm.conv2.weight", "cp.arm16.bn_atten.running_mean"),
}
"""Of each kind of file, a tensor that will have another shape and one that will have another name."""


def write(path: Path, shapes: Shapes) -> None:
    path.unlink()
    (write_safetensors if path.suffix == ".safetensors" else write_pickle)(path, shapes)


@pytest.mark.parametrize("target", KINDS)
def test_tensors_that_do_not_fit_are_named_with_their_file_and_both_shapes(copy: Path, target: str) -> None:
    shapes = shapes_of(FILES[target])
    grown, renamed = KINDS[target]
    right, dtype = shapes[grown]
    wrong = [*right[:-1], right[-1] + 1]
    other = {grown: (wrong, dtype), f"{renamed}_v2": shapes[renamed]}
    write(copy / target, {key: value for key, value in (shapes | other).items() if key != renamed})

    with pytest.raises(LoadError) as caught:
        load(copy, target)
    told = str(caught.value)
    assert told.startswith(f"{copy / target} does not fit ")
    assert f"{grown} is {wrong} there and {right} here" in told
    assert f"{renamed} is missing there" in told
    assert f"{renamed}_v2 is unexpected" in told


@pytest.mark.parametrize("target", KINDS)
def test_a_missing_checkpoint_is_named(copy: Path, target: str) -> None:
    (copy / target).unlink()
    with pytest.raises(LoadError, match="is missing") as caught:
        load(copy, target)
    assert str((copy / target).with_suffix("")).removesuffix(".fp16") in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "pulid/sdxl_base/unet/config.json",
        "pulid/sdxl_base/text_encoder/config.json",
        "pulid/sdxl_base/tokenizer/vocab.json",
        "pulid/sdxl_base/tokenizer_2/merges.txt",
        "pulid/sdxl_base/scheduler/scheduler_config.json",
        "instantid/controlnet-pose/config.json",
        "instantid/base/scheduler/scheduler_config.json",
    ],
)
def test_a_missing_small_file_is_named(copy: Path, target: str) -> None:
    (copy / target).unlink()
    with pytest.raises(LoadError, match="is missing") as caught:
        load(copy, target)
    assert str(copy / target) in str(caught.value)


def test_nothing_is_read_before_every_file_fits(copy: Path) -> None:
    """The last file to be looked at is wrong: 8 GB stay unread although the device is a real one."""
    target = "pulid/facexlib/parsing_bisenet.pth"
    write(copy / target, {"cp.resnet.conv1.weight": ([64, 3, 7, 7], "float32")})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LoadError, match="parsing_bisenet"):
        load(copy, target, Profile(device="cpu", dtype="float32"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def test_a_network_of_another_size_is_told_by_its_config(copy: Path) -> None:
    path = copy / "pulid/sdxl_base/vae/config.json"
    config = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(config | {"block_out_channels": [64, 128, 256, 256]}))
    with pytest.raises(LoadError, match=r"is \[128, 3, 3, 3\] there and \[64, 3, 3, 3\] here; .* \(and \d+ more\)"):
        load(copy, "pulid")


def test_doctor_finds_every_checkpoint_and_names_the_wrong_one(
    copy: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("data")
    good = veraicon(data, "doctor", weights="full", weights_dir=copy, device="cpu")
    (stop,) = (line for line in good.stdout.splitlines() if line.startswith("STOP"))
    assert f"prepared weights: in {copy}: instantid/ip-adapter.safetensors is not prepared yet" in stop
    for name in NAMES:
        assert f"weights {name}: present" in good.stdout

    target = "instantid/pytorch_lora_weights.safetensors"
    shapes = shapes_of(FILES[target])
    name, (shape, dtype) = next((k, v) for k, v in shapes.items() if len(v[0]) == 4)
    write(copy / target, {**shapes, name: ([7, *shape[1:]], dtype)})
    bad = veraicon(data, "doctor", weights="full", weights_dir=copy, device="cpu")
    told = " ".join(bad.stdout.split())
    assert bad.returncode == 1
    assert target in told
    assert f"{name} has shape {[7, *shape[1:]]}, expected {shape}" in told
