"""A wheelhouse holds what its lists say, is checked before it is used, and is enough to install from."""

import os
import shutil
import subprocess
import sys

import pytest

from scripts.check_imports import rivals_of
from tests.integration.sealing import fill_wheelhouse
from tests.server_process import ROOT
from tests.small_wheels import write_lists, write_wheel


@pytest.fixture
def wheels(tmp_path):
    """Small wheels and the lists that name them."""
    write_lists(tmp_path / "wheels")
    return tmp_path / "wheels"


@pytest.fixture
def copy(wheelhouse, tmp_path):
    """A wheelhouse to be broken."""
    return shutil.copytree(wheelhouse, tmp_path / "wheelhouse")


def install(source, folder):
    command = ["sh", str(ROOT / "scripts" / "install.sh"), str(source), str(folder)]
    env = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def set_up(wheelhouse, folder):
    command = ["bash", str(ROOT / "scripts" / "setup.sh"), "cpu"]
    env = os.environ | {"WHEELHOUSE": str(wheelhouse), "VENV": str(folder / "venv"), "PYTHON": sys.executable}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_wheel_with_another_hash_than_the_list_is_refused_by_name(wheels, tmp_path):
    write_wheel(wheels, "builder", {"builder.py": "import evil"})
    done = fill_wheelhouse(tmp_path / "wheelhouse", wheels)
    assert done.returncode == 1
    assert "builder" in done.stderr
    assert "build.txt cannot be had" in done.stderr
    assert not (tmp_path / "wheelhouse" / "SHA256SUMS").exists()


@pytest.mark.parametrize("kind", ["gpu", "gpu-cu12"])
def test_a_wheelhouse_for_either_cuda_holds_its_own_list(wheels, tmp_path, kind):
    other = ({"gpu", "gpu-cu12"} - {kind}).pop()
    (wheels / "lists" / f"{other}.txt").write_text("absent==1.0 --hash=sha256:" + "0" * 64 + "\n")
    done = fill_wheelhouse(tmp_path / "wheelhouse", wheels, kind)
    assert done.returncode == 0, done.stderr
    assert f"wheelhouse: {kind}, for Python" in done.stdout
    assert "libraries==1.0 --hash=sha256:" in (tmp_path / "wheelhouse" / "libraries.txt").read_text()


@pytest.mark.parametrize(
    ("kind", "rival"), [("gpu", "onnxruntime"), ("gpu-cu12", "onnxruntime"), ("cpu", "onnxruntime-gpu")]
)
def test_a_set_up_host_has_one_onnxruntime_the_one_of_its_list(kind, rival):
    assert {name for name in rivals_of(kind) if name.startswith("onnx")} == {rival}


def test_a_wheel_that_no_list_names_any_more_is_removed(wheels, tmp_path):
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    old = write_wheel(folder, "old", {"old.py": ""})
    done = fill_wheelhouse(folder, wheels)
    assert done.returncode == 0, done.stderr
    assert not old.exists()
    assert "old-1.0-py3-none-any.whl is in no list any more, removed" in done.stdout
    assert "old" not in (folder / "SHA256SUMS").read_text()


@pytest.mark.parametrize("use", [install, set_up])
def test_a_flipped_byte_in_a_wheel_is_found_before_anything_is_installed(copy, tmp_path, use):
    wheel = copy / "builder-1.0-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[40] ^= 1
    wheel.write_bytes(content)
    done = use(copy, tmp_path / "studio")
    assert done.returncode == 1
    assert f"{wheel.name}: FAILED" in done.stdout
    assert f"{copy} is damaged (see above). Copy it again." in done.stderr
    assert not list(tmp_path.glob("studio/venv*"))


@pytest.mark.parametrize("use", [install, set_up])
def test_a_wheelhouse_for_another_python_says_which_one_is_needed(copy, tmp_path, use):
    (copy / "python").write_text("3.99\n")
    sums = subprocess.run(["sha256sum", "python"], cwd=copy, capture_output=True, text=True, check=True).stdout
    lines = [line for line in (copy / "SHA256SUMS").read_text().splitlines() if not line.endswith("  python")]
    (copy / "SHA256SUMS").write_text("\n".join([*lines, sums]))
    done = use(copy, tmp_path / "studio")
    assert done.returncode == 1
    assert "Python 3.99" in done.stderr
    assert "Set PYTHON=/path/to/python3.99" in done.stderr


@pytest.mark.parametrize("use", [install, set_up])
def test_an_unfinished_wheelhouse_is_refused(copy, tmp_path, use):
    (copy / "SHA256SUMS").unlink()
    done = use(copy, tmp_path / "studio")
    assert done.returncode == 1
    assert f"{copy} is no complete wheelhouse: SHA256SUMS is missing. Make it with `make wheelhouse`." in done.stderr


def test_an_upgrade_keeps_the_application_before_and_a_second_call_is_instant(wheels, copy, tmp_path):
    studio = tmp_path / "studio"
    for wheelhouse in (copy, copy, tmp_path / "next"):
        if not wheelhouse.exists():
            (wheels / "lists" / "cpu-cuda-torch.txt").write_text("libraries==1.0\nextra==1.0\n")
            write_wheel(wheels, "extra", {"extra.py": ""})
            assert fill_wheelhouse(wheelhouse, wheels).returncode == 0
        done = install(wheelhouse, studio)
        assert done.returncode == 0, done.stdout + done.stderr
    now, before = (studio / "venv").readlink(), (studio / "venv.before").readlink()
    assert now != before
    assert {path.name for path in studio.glob("venv-*")} == {str(now), str(before)}
    assert list((studio / now).glob("lib/*/site-packages/extra.py"))
    assert not list((studio / before).glob("lib/*/site-packages/extra.py"))


def test_the_real_lists_name_no_registry_and_hash_every_file_of_a_gpu_host():
    for name in ("gpu", "gpu-cu12", "build"):
        text = (ROOT / "scripts" / "requirements" / f"{name}.txt").read_text()
        assert "://" not in text
        for requirement in text.replace("\\\n", " ").splitlines():
            assert "--hash=sha256:" in requirement, requirement
