import dataclasses
import json
import struct
from pathlib import Path

import pytest

from pipelines.catalog import CATALOG
from weights.manifest import WeightsError, read_manifest
from weights.store import check_hash, check_shapes, missing, read_header, read_shapes, tiny_root

BYTES = {"float16": ("F16", 2), "float32": ("F32", 4), "int64": ("I64", 8)}
SMALL = {"a": ([2, 3], "float32"), "b": ([4], "float16")}


def stand_in(path: Path, shapes: dict[str, tuple[list[int], str]]) -> None:
    """A sparse safetensors file: a true header and the true size, but no data on the disk."""
    header, offset = {}, 0
    for key, (shape, dtype) in shapes.items():
        name, width = BYTES[dtype]
        for side in shape:
            width *= side
        header[key] = {"dtype": name, "shape": shape, "data_offsets": [offset, offset := offset + width]}
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + offset)


def test_an_empty_folder_lacks_every_file_of_the_named_checkpoints(tmp_path):
    for endpoint in CATALOG:
        lacking = missing(endpoint.checkpoints, tmp_path)
        manifest = read_manifest()
        assert len(lacking) == sum(len(manifest[name].files) for name in endpoint.checkpoints)
        assert {one.problem for one in lacking} == {"is missing"}


def test_a_complete_folder_lacks_nothing(tmp_path):
    names = [name for endpoint in CATALOG for name in endpoint.checkpoints]
    for checkpoint in read_manifest().values():
        for file in checkpoint.files:
            path = tmp_path / file.target
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors":
                stand_in(path, read_shapes(file.shapes))
            else:
                with path.open("wb") as stream:
                    stream.truncate(file.size or 7)
    assert missing(names, tmp_path) == []


def test_what_the_tiny_profile_lacks_are_the_real_face_models():
    lacking = missing(read_manifest(), tiny_root())
    assert [one.file.target for one in lacking] == ["antelopev2/scrfd_10g_bnkps.onnx", "antelopev2/glintr100.onnx"]
    assert lacking[1].problem.endswith("expected 260665334: download it again")
    assert lacking[1].checkpoint.name == "antelopev2"


def test_a_download_that_was_cut_short_is_missing(tmp_path):
    (lora,) = read_manifest()["lcm-lora"].files
    path = tmp_path / lora.target
    path.parent.mkdir()
    stand_in(path, SMALL)
    assert missing(["lcm-lora"], tmp_path) == []
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 1)

    (problem,) = missing(["lcm-lora"], tmp_path)
    assert "download it again" in problem.problem


@pytest.mark.parametrize("content", [b"", b"\x07", b"<!DOCTYPE html><html></html>", b"\x02" + bytes(7) + b"[]"])
def test_a_web_page_in_place_of_the_weights_is_missing(tmp_path, content):
    (lora,) = read_manifest()["lcm-lora"].files
    path = tmp_path / lora.target
    path.parent.mkdir()
    path.write_bytes(content)

    (problem,) = missing(["lcm-lora"], tmp_path)
    assert "not a safetensors file" in problem.problem


def test_an_unknown_checkpoint_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint is called nobody"):
        missing(["nobody"], tmp_path)


def test_the_real_shapes_are_accepted_without_reading_a_tensor(tmp_path):
    path = tmp_path / "unet.safetensors"
    stand_in(path, read_shapes("sdxl_unet"))
    assert path.stat().st_size > 5e9
    check_shapes(path, read_shapes("sdxl_unet"))


def test_another_precision_is_accepted(tmp_path):
    path = tmp_path / "model.safetensors"
    stand_in(path, SMALL)
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
    stand_in(path, SMALL)
    with pytest.raises(WeightsError, match=rf"model\.safetensors is another model than expected: {difference}"):
        check_shapes(path, expected)


def test_many_differences_are_counted(tmp_path):
    path = tmp_path / "model.safetensors"
    stand_in(path, read_shapes("sdxl_vae"))
    with pytest.raises(WeightsError, match=r"; and \d{4} more"):
        check_shapes(path, read_shapes("sdxl_unet"))


def test_a_tiny_file_is_not_taken_for_the_real_one():
    unet = tiny_root() / "pulid" / "sdxl_lightning" / "sdxl_lightning_4step_unet.safetensors"
    with pytest.raises(WeightsError, match="another model than expected"):
        check_shapes(unet, read_shapes("sdxl_unet"))


def test_a_cut_file_says_how_much_is_there(tmp_path):
    path = tmp_path / "model.safetensors"
    stand_in(path, SMALL)
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
