"""A studio's own checkpoint becomes a base by one command, or is refused with the reason, and then leaves no trace."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.instantid.bases import base_names
from tests.server_process import ROOT, veraicon
from tests.single_file import write_single_file
from weights.bases import add, forget
from weights.lock import read_lock
from weights.manifest import WeightsError

TINY = ROOT / "weights" / "tiny" / "instantid"


@pytest.fixture
def root(tmp_path):
    """A weights root with the default base."""
    shutil.copytree(TINY, tmp_path / "weights" / "instantid")
    return tmp_path / "weights"


@pytest.fixture
def single(tmp_path):
    write_single_file(TINY / "base", tmp_path / "house style.safetensors")
    return tmp_path / "house style.safetensors"


def put(name, source, root, *, link=False):
    return add(name, source, root, link=link, check=lambda folder, name: None, on_bytes=lambda count: None)


def traces(root):
    """What is below the folder of bases, and in the lock."""
    below = root / "instantid" / "bases"
    return [path.name for path in below.rglob("*")] if below.is_dir() else [], list(read_lock(root).checkpoints)


def test_one_file_is_copied_checked_recorded_and_offered(root, single, tmp_path):
    done = veraicon(tmp_path, "weights", "add-base", "house", str(single))
    assert done.returncode == 0, done.stderr
    assert "model_name='house'" in done.stdout
    assert "Its licence is not known to Veraicon" in done.stdout
    assert base_names(root / "instantid" / "bases") == ["house"]
    entry = read_lock(root).checkpoints["bases/house"]
    assert entry.repository == str(single)
    assert entry.files["instantid/bases/house.safetensors"].known == "local"
    assert entry.files["instantid/bases/house.safetensors"].size == single.stat().st_size


def test_a_file_of_other_shapes_is_refused_by_the_command_and_leaves_no_trace(root, single, tmp_path):
    tensors = load_file(single)
    name = next(key for key in tensors if key.endswith("proj_in.weight"))
    save_file(tensors | {name: torch.zeros(3, 3)}, single)
    done = veraicon(tmp_path, "weights", "add-base", "house", str(single))
    assert done.returncode == 1
    assert "does not fit" in done.stderr
    assert "[3, 3]" in done.stderr
    assert "Traceback" not in done.stderr
    assert traces(root) == ([], [])


def test_a_diffusers_folder_comes_with_every_file_and_links_followed(root, tmp_path):
    source = tmp_path / "snapshot"
    source.mkdir()
    (source / "unet").symlink_to(TINY / "base" / "unet")
    shutil.copytree(TINY / "base" / "vae", source / "vae")
    (source / "vae" / "config.json").unlink()
    (source / "vae" / "config.json").symlink_to(TINY / "base" / "vae" / "config.json")
    (source / ".cache").mkdir()
    (source / ".cache" / "x").touch()
    target = put("house", source, root)
    assert not (target / ".cache").exists()
    assert (target / "vae" / "config.json").is_file()
    assert not (target / "vae" / "config.json").is_symlink()
    assert "instantid/bases/house/vae/config.json" in read_lock(root).files


def test_link_takes_no_disk_and_never_leads_out_of_the_root(root, single):
    target = put("house", single, root, link=True)
    assert target.samefile(single)
    assert not target.is_symlink()


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_bases_that_changed_are_found_by_verify_and_can_be_forgotten(root, single, tmp_path):
    """row 80: what no manifest names hangs on the lock alone."""
    whole, flipped, cut, lost = (put(name, single, root) for name in ("whole", "flipped", "cut", "lost"))
    (tmp_path / "manifest.toml").write_text("")
    full = {"weights": "full", "weights_manifest": tmp_path / "manifest.toml", "device": "cpu"}

    def run(*words):
        ran = veraicon(tmp_path, "weights", *words, **full)
        return ran.returncode, " ".join((ran.stdout + ran.stderr).split())

    assert run("verify", "all", "--deep")[0] == 0
    flip(flipped)
    cut.write_bytes(b"short")
    lost.unlink()
    status, words = run("verify", "all", "--deep")
    assert status == 1
    bases = "instantid/bases"
    assert f"{bases}/flipped.safetensors has sha256" in words
    assert f"{bases}/cut.safetensors is 5 bytes, weights.lock says {whole.stat().st_size}: put it back with" in words
    assert f"{bases}/lost.safetensors is missing: put it back with `veraicon weights add-base`" in words
    assert "whole" not in words
    listed = run("list")[1]
    assert re.search(r"bases/lost model_name missing \d+ your own unclear", listed)
    assert re.search(r"bases/whole model_name present \d+ your own unclear", listed)
    assert run("remove-base", "lost")[0] == 0
    assert set(read_lock(root).checkpoints) == {"bases/whole", "bases/flipped", "bases/cut"}


def test_a_base_that_is_none_cannot_be_removed(root, single):
    put("house", single, root)
    for name in ("other", "../base", "bases/house"):
        with pytest.raises(WeightsError, match=f"there is no base '{name}'"):
            forget(name, root)
    forget("house", root)
    assert put("house", single, root).is_file()


def test_a_name_that_is_taken_or_strange_is_refused(root, single):
    put("house", single, root)
    with pytest.raises(WeightsError, match=r"house.safetensors exists already: choose another name"):
        put("house", single, root)
    for name in ("../evil", ".hidden", "a/b", "", "x" * 61, "über"):
        with pytest.raises(WeightsError, match="is no name for a base"):
            put(name, single, root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.ckpt", r"model.ckpt is no .safetensors file: a .ckpt may hold code; convert it to safetensors first"),
        ("nothing.safetensors", "is neither a .safetensors file nor a diffusers folder"),
        ("folder", "is neither a .safetensors file nor a diffusers folder"),
    ],
)
def test_what_is_no_base_is_refused(root, tmp_path, name, message):
    (tmp_path / "model.ckpt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightsError, match=message):
        put("house", tmp_path / name, root)
    assert traces(root) == ([], [])
