"""What lies below the weights root: missing, cut short, misplaced or another model than expected."""

import dataclasses
import json
from pathlib import Path

import pytest

from pipelines.catalog import CATALOG
from scripts.make_stand_ins import write_pickle, write_safetensors
from weights.lock import Lock, Locked, Prepared, read_lock, write_lock
from weights.manifest import WeightsError, read_manifest
from weights.store import Shapes, check_hash, check_shapes, misfits, missing, read_header, read_shapes, tiny_root

SMALL = {"a": ([2, 3], "float32"), "b": ([4], "float16")}


def test_an_empty_folder_lacks_every_file_of_the_named_checkpoints(tmp_path):
    for endpoint in CATALOG:
        lacking = missing(endpoint.checkpoints, tmp_path)
        manifest = read_manifest()
        assert len(lacking) == sum(len(manifest[name].files) for name in endpoint.checkpoints)
        assert {one.problem for one in lacking} == {"is missing"}


def test_what_the_tiny_profile_lacks_are_the_real_face_and_pose_models():
    lacking = {one.file.target: one for one in missing(read_manifest(), tiny_root())}
    assert set(lacking) == {
        *("antelopev2/scrfd_10g_bnkps.onnx", "antelopev2/glintr100.onnx"),
        *("dwpose/yolox_l.onnx", "dwpose/dw-ll_ucoco_384.onnx"),
    }
    arcface = lacking["antelopev2/glintr100.onnx"]
    assert arcface.problem.endswith("expected 260665334: download it again")
    assert arcface.checkpoint.name == "antelopev2"


def test_a_download_that_was_cut_short_is_missing(tmp_path):
    (lora,) = read_manifest()["lcm-lora"].files
    path = tmp_path / lora.target
    path.parent.mkdir()
    write_safetensors(path, SMALL)
    assert missing(["lcm-lora"], tmp_path) == []
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 1)

    (problem,) = missing(["lcm-lora"], tmp_path)
    assert "download it again" in problem.problem


def put(root: Path, target: str, shapes: Shapes) -> Path:
    """A stand-in with these tensors at this place."""
    path = root / target
    path.parent.mkdir(parents=True, exist_ok=True)
    (write_safetensors if path.suffix == ".safetensors" else write_pickle)(path, shapes)
    return path


def problems(name: str, root: Path) -> dict[str, str]:
    """What is wrong with the weights of one checkpoint; configs and tokenizers left aside."""
    lacking = [*missing([name], root), *misfits([name], root)]
    return {one.file.target: one.problem for one in lacking if one.file.shapes}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("controlnet-canny", "instantid/controlnet-canny/diffusion_pytorch_model.fp16.safetensors"),
        ("controlnet-pose", "instantid/controlnet-pose/diffusion_pytorch_model.fp16.safetensors"),
        ("pulid-v1", "pulid/pulid/pulid_v1.safetensors"),
    ],
)
def test_a_file_may_lie_where_the_loader_finds_it_too_and_is_checked_there(tmp_path, name, place):
    ((file,),) = ([file for file in read_manifest()[name].files if file.shapes],)
    assert problems(name, tmp_path) == {file.target: "is missing"}
    shapes = read_shapes(file.shapes)
    put(tmp_path, place, shapes)
    assert problems(name, tmp_path) == {}

    key, (shape, dtype) = next(iter(shapes.items()))
    put(tmp_path, place, {**shapes, key: ([*shape, 2], dtype)})
    assert f"{key} has shape {[*shape, 2]}, expected {shape}" in problems(name, tmp_path)[file.target]


def test_a_base_in_one_file_stands_for_all_its_networks(tmp_path):
    assert len(problems("instantid-base", tmp_path)) == 4
    put(tmp_path, "instantid/base.safetensors", SMALL)
    assert problems("instantid-base", tmp_path) == {}


def test_shards_stand_for_the_whole_file_when_all_are_there(tmp_path):
    folder = tmp_path / "instantid" / "controlnet-canny"
    put(tmp_path, "instantid/controlnet-canny/one.safetensors", SMALL)
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (problem,) = problems("controlnet-canny", tmp_path).values()
    assert problem == "lacks two.safetensors, which diffusion_pytorch_model.safetensors.index.json names"
    put(tmp_path, "instantid/controlnet-canny/two.safetensors", SMALL)
    assert problems("controlnet-canny", tmp_path) == {}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("[]")
    assert "is no index of shards" in problems("controlnet-canny", tmp_path).popitem()[1]


def test_a_file_that_the_loader_takes_by_its_one_name_has_no_other_place(tmp_path):
    put(tmp_path, "pulid/sdxl_lightning/sdxl_lightning_4step_unet.fp16.safetensors", read_shapes("sdxl_unet"))
    assert list(problems("sdxl-lightning", tmp_path).values()) == ["is missing"]


def test_a_pickle_that_was_cut_short_or_is_none_is_told(tmp_path):
    target = "pulid/facexlib/parsing_bisenet.pth"
    path = put(tmp_path, target, SMALL)
    assert problems("bisenet", tmp_path) == {}
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 50)
    assert "is no PyTorch file, or was cut short" in problems("bisenet", tmp_path)[target]
    path.write_text("<!DOCTYPE html>")
    assert "is no PyTorch file, or was cut short" in problems("bisenet", tmp_path)[target]


def test_the_table_of_positions_that_old_text_encoders_saved_is_passed_over(tmp_path):
    path = put(tmp_path, "model.safetensors", {**SMALL, "text_model.embeddings.position_ids": ([1, 77], "int64")})
    check_shapes(path, SMALL)


@pytest.mark.parametrize("content", [b"", b"\x07", b"<!DOCTYPE html><html></html>", b"\x02" + bytes(7) + b"[]"])
def test_a_web_page_in_place_of_the_weights_is_missing(tmp_path, content):
    (lora,) = read_manifest()["lcm-lora"].files
    path = tmp_path / lora.target
    path.parent.mkdir()
    path.write_bytes(content)

    (problem,) = missing(["lcm-lora"], tmp_path)
    assert "not a safetensors file" in problem.problem


HEADERS = {
    "length": (b"\x00" * 7 + b"\x80", "it announces a header of 9223372036854775808 bytes"),
    "overlap": (
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        "b begins at 4, where 8 was due: tensors overlap or leave a gap",
    ),
    "gap": ({"a": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]}}, "a begins at 4, where 0 was due"),
    "shape": ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "a has 8 bytes, too few or too many for"),
    "names": ({"a": 5}, "not a safetensors file"),
}


@pytest.mark.parametrize(("header", "told"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_is_refused(tmp_path, header, told):
    """row 80: no file whose tensors are not exactly where its header says is ever mapped."""
    (lora,) = read_manifest()["lcm-lora"].files
    path = tmp_path / lora.target
    path.parent.mkdir()
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(text if isinstance(header, bytes) else len(text).to_bytes(8, "little") + text + bytes(12))
    (problem,) = missing(["lcm-lora"], tmp_path)
    assert str(path) in problem.problem
    assert told in problem.problem


def test_a_link_out_of_the_weights_folder_is_refused(tmp_path):
    """row 80: what the server maps is what `verify` has read."""
    outside, root = put(tmp_path, "elsewhere.safetensors", SMALL), tmp_path / "weights"
    target = "instantid/pytorch_lora_weights.safetensors"
    (root / target).parent.mkdir(parents=True)
    (root / target).symlink_to(outside)
    (problem,) = missing(["lcm-lora"], root)
    assert problem.problem == f"is a link to {outside}, outside the weights folder: put the file itself here"
    (root / target).unlink()
    put(root, "real.safetensors", SMALL)
    (root / target).symlink_to(root / "real.safetensors")
    assert missing(["lcm-lora"], root) == []


def test_a_pickle_where_safetensors_belong_is_named_and_not_read(tmp_path):
    """row 80: .ckpt, .bin and .pt beside the right name do not stand for it."""
    for end in (".ckpt", ".bin", ".pt"):
        path = put(tmp_path, f"instantid/pytorch_lora_weights{end}", SMALL)
        (problem,) = missing(["lcm-lora"], tmp_path)
        assert problem.problem == f"is missing; {path.name} lies there, a pickle that this server does not read"
        path.unlink()


def test_a_shard_that_was_cut_is_named(tmp_path):
    """row 80: the index is whole, one of its shards is not."""
    folder = tmp_path / "instantid" / "controlnet-canny"
    shard = put(tmp_path, "instantid/controlnet-canny/one.safetensors", SMALL)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
    with shard.open("r+b") as stream:
        stream.truncate(shard.stat().st_size - 1)
    assert "has a shard one.safetensors that is" in problems("controlnet-canny", tmp_path).popitem()[1]


def test_a_size_that_the_lock_does_not_know_is_told(tmp_path):
    """row 80: a file that was pulled once and has another size now."""
    path = put(tmp_path, "instantid/pytorch_lora_weights.safetensors", SMALL)
    pinned = Locked(path.stat().st_size + 1, "0" * 64, "hub")
    write_lock(tmp_path, Lock().with_file("lcm-lora", "x/y", "c", "instantid/pytorch_lora_weights.safetensors", pinned))
    (problem,) = missing(["lcm-lora"], tmp_path)
    assert problem.problem.startswith(f"is {pinned.size - 1} bytes, weights.lock says {pinned.size}: `veraicon weights")


def test_a_lock_is_written_whole_and_a_strange_one_is_named(tmp_path):
    assert read_lock(tmp_path) == Lock()
    lock = Lock(licences={"a": "2026-01-02"}, prepared={"x": Prepared(1, "0", {"y": "1"}, "float16")})
    lock = lock.with_file("a", "x/y", "c", "f", Locked(1, "0", "release"))
    write_lock(tmp_path, lock)
    assert read_lock(tmp_path) == lock
    assert [path.name for path in tmp_path.iterdir()] == ["weights.lock"]
    for text in ("{", "[]", '{"format": 2}', '{"format": 1}', "\x00"):
        (tmp_path / "weights.lock").write_text(text)
        with pytest.raises(WeightsError, match=r"weights\.lock cannot be understood"):
            read_lock(tmp_path)


def test_an_unknown_checkpoint_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint is called nobody"):
        missing(["nobody"], tmp_path)


def test_the_real_shapes_are_accepted_without_reading_a_tensor(tmp_path):
    path = tmp_path / "unet.safetensors"
    write_safetensors(path, read_shapes("sdxl_unet"))
    assert path.stat().st_size > 5e9
    check_shapes(path, read_shapes("sdxl_unet"))


def test_another_precision_is_accepted(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, SMALL)
    check_shapes(path, {key: (shape, "float16") for key, (shape, _) in SMALL.items()})


@pytest.mark.parametrize(
    ("expected", "difference"),
    [
        ({**SMALL, "c": ([1], "float32")}, "c is missing"),
        ({"a": SMALL["a"]}, "b is unexpected"),
        ({**SMALL, "a": ([3, 2], "float32")}, r"a has shape \[2, 3\], expected \[3, 2\]"),
    ],
)
def test_each_difference_is_told(tmp_path, expected, difference):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, SMALL)
    with pytest.raises(WeightsError, match=rf"model\.safetensors is another model than expected: {difference}"):
        check_shapes(path, expected)


def test_many_differences_are_counted(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, read_shapes("sdxl_vae"))
    with pytest.raises(WeightsError, match=r"; and \d{4} more"):
        check_shapes(path, read_shapes("sdxl_unet"))


def test_a_tiny_file_is_not_taken_for_the_real_one():
    unet = tiny_root() / "pulid" / "sdxl_lightning" / "sdxl_lightning_4step_unet.safetensors"
    with pytest.raises(WeightsError, match="another model than expected"):
        check_shapes(unet, read_shapes("sdxl_unet"))


def test_a_cut_file_says_how_much_is_there(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, SMALL)
    size = read_header(path)[1]
    with path.open("r+b") as stream:
        stream.truncate(size - 5)
    with pytest.raises(WeightsError, match=f"is {size - 5} bytes, its header promises {size}"):
        check_shapes(path, SMALL)


def test_a_file_with_the_wrong_hash_is_refused(tmp_path):
    path = tmp_path / "scrfd_10g_bnkps.onnx"
    path.write_bytes(b"hello")
    scrfd = read_manifest()["antelopev2"].files[0]
    with pytest.raises(WeightsError, match=f"expected {scrfd.sha256}"):
        check_hash(path, scrfd)
    right = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    check_hash(path, dataclasses.replace(scrfd, sha256=right))
