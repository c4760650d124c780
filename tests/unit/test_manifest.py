"""The manifest of the checkpoints: complete, consistent with the tiny profile, and inventing nothing."""

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from pipelines.catalog import CATALOG
from weights.licences import render, table
from weights.manifest import MANIFEST, File, WeightsError, read_manifest, select
from weights.store import SHAPES, read_shapes, tiny_root

ROOT = Path(__file__).parents[2]
FILES = [(name, file) for name, checkpoint in read_manifest().items() for file in checkpoint.files]


def test_every_checkpoint_of_every_endpoint_is_in_the_manifest():
    manifest = read_manifest()
    for endpoint in CATALOG:
        assert set(endpoint.checkpoints) <= manifest.keys(), endpoint.id


def test_an_endpoints_files_lie_in_its_folder_or_with_the_faces():
    manifest = read_manifest()
    for endpoint in CATALOG:
        folders = {PurePosixPath(f.target).parts[0] for c in select(endpoint.checkpoints, manifest) for f in c.files}
        assert folders == {endpoint.folder, "antelopev2"}


@pytest.mark.parametrize(("name", "file"), FILES, ids=lambda value: getattr(value, "target", value))
def test_each_file_lies_where_the_tiny_one_lies(name, file):
    if file.target == "antelopev2/scrfd_10g_bnkps.onnx":
        assert not (tiny_root() / file.target).exists()  # the tiny profile finds faces with OpenCV's cascade
    else:
        assert (tiny_root() / file.target).is_file()


def test_no_two_files_share_a_place():
    targets = [file.target for _, file in FILES]
    assert len(targets) == len(set(targets))


def test_hashes_are_hashes_and_large_files_have_a_size():
    for name, file in FILES:
        assert re.fullmatch(r"[0-9a-f]{64}|", file.sha256), name
        if PurePosixPath(file.path).suffix in {".safetensors", ".bin", ".pt", ".pth", ".onnx"}:
            assert file.megabytes > 0, file.path


def test_recorded_shapes_fit_the_planned_size():
    """float16 or float32 copies of the recorded tensors are what `about_mb` says, within two percent."""
    for _, file in FILES:
        if file.shapes:
            numbers = sum(_count(shape) for shape, _ in read_shapes(file.shapes).values())
            assert min(abs(numbers * width / 1e6 / file.about_mb - 1) for width in (2, 4)) < 0.02, file.path


def _count(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def test_every_shape_list_is_used():
    assert {path.stem for path in SHAPES.glob("*.json")} == {file.shapes for _, file in FILES if file.shapes}


def test_urls_name_the_repository_the_revision_and_the_file():
    manifest = read_manifest()
    bisenet, lora = manifest["bisenet"], manifest["lcm-lora"]
    assert bisenet.url(bisenet.files[0]) == (
        "https://github.com/xinntao/facexlib/releases/download/v0.2.0/parsing_bisenet.pth"
    )
    assert lora.url(lora.files[0]) == (
        "https://huggingface.co/latent-consistency/lcm-lora-sdxl/resolve/main/pytorch_lora_weights.safetensors"
    )
    assert lora.page == "https://huggingface.co/latent-consistency/lcm-lora-sdxl"


def test_an_unknown_checkpoint_is_named_with_the_known_ones():
    with pytest.raises(WeightsError, match=r"no checkpoint is called nobody; there are: instantid, "):
        select(["lcm-lora", "nobody"], read_manifest())


def test_a_misspelt_field_in_the_manifest_is_an_error(tmp_path):
    path = tmp_path / "manifest.toml"
    path.write_text(MANIFEST.read_text().replace("commercial_use", "comercial_use", 1))
    with pytest.raises(WeightsError, match=r"manifest\.toml is no manifest of weights: .*'comercial_use'"):
        read_manifest(path)


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "instantid/../../x"])
def test_a_manifest_cannot_lead_out_of_the_weights_folder(target):
    """row 80: whoever writes a manifest chooses names below the root, and nothing else."""
    with pytest.raises(WeightsError, match="outside the weights folder"):
        File(path="x", target=target)


def test_licences_md_says_what_the_manifest_says():
    """After changing the manifest, write what `python -m scripts.make_licences` makes."""
    assert (ROOT / "LICENCES.md").read_text() == render(read_manifest())


def test_non_commercial_weights_stand_first():
    uses = [use for _, _, _, use, _ in table(read_manifest().values())]
    assert uses == sorted(uses, key=["no", "unclear", "yes"].index)
    assert uses[0] == "no"


def test_weights_import_no_torch_and_no_pipeline():
    modules = "weights.manifest, weights.store, weights.licences"
    code = f"import sys, {modules}; print(sorted({{'torch', 'pipelines', 'server', 'numpy'}} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
