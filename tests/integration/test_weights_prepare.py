"""`veraicon weights prepare`: made once of what is there; the server reads nothing else, and says when it is stale."""

import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.errors import LoadError
from pipelines.prepare import prepare
from tests.conftest import as_data_uri
from tests.server_process import ROOT, ServerProcess, environment
from tests.tiny_hub import content, targets, tiny_manifest
from weights.lock import read_lock
from weights.store import sha256_of

MADE = {
    "instantid/lcm_unet.safetensors",
    "instantid/ip-adapter.safetensors",
    "pulid/pulid/pulid_v1.safetensors",
    "pulid/eva_clip/EVA02_CLIP_L_336_psz14_s6B.safetensors",
    "pulid/facexlib/parsing_bisenet.safetensors",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose weights somebody placed by hand."""
    data = tmp_path_factory.mktemp("data")
    for target in targets(tiny_manifest(data / "manifest.toml")):
        (data / "weights" / target).parent.mkdir(parents=True, exist_ok=True)
        (data / "weights" / target).write_bytes(content(target))
    return data


def settings(data: Path) -> dict[str, object]:
    return {"weights": "full", "weights_manifest": data / "manifest.toml", "device": "cpu", "max_side_px": 256}


def run(data: Path, *words: str, **more: object) -> tuple[int, str]:
    """Exit status and everything said, without line breaks."""
    ran = subprocess.run(
        [sys.executable, "-m", "server.cli", *words],
        cwd=ROOT,
        env=environment(data, **{**settings(data), **more}),
        capture_output=True,
        text=True,
        timeout=240,  # torch is imported once more
        check=False,
    )
    return ran.returncode, " ".join((ran.stdout + ran.stderr).split())


@pytest.fixture(scope="module")
def first(data: Path) -> Iterator[list[tuple[int, str]]]:
    """A server before, and twice the command."""
    yield [run(data, *words) for words in (("serve",), ("weights", "prepare"), ("weights", "prepare"))]


def test_what_the_server_reads_is_made_once_and_accounted_for(data: Path, first: list[tuple[int, str]]) -> None:
    before, made, again = first
    assert before[0] == 1
    assert "instantid/ip-adapter.safetensors is not prepared yet: `veraicon weights prepare` makes it" in before[1]
    assert made[0] == 0, made[1]
    assert "5 files made as float32, 0 were ready" in made[1]
    assert again == (0, "0 files made as float32, 5 were ready. Next: `veraicon serve`")

    lock, root = read_lock(data / "weights"), data / "weights"
    assert lock.prepared.keys() == MADE
    for target, entry in lock.prepared.items():
        assert (entry.size, entry.sha256) == ((root / target).stat().st_size, sha256_of(root / target))
        assert {source: sha256_of(root / source) for source in entry.made_from} == dict(entry.made_from)
    assert set(lock.prepared["instantid/lcm_unet.safetensors"].made_from) == {
        "instantid/base/unet/diffusion_pytorch_model.safetensors",
        "instantid/pytorch_lora_weights.safetensors",
    }


def test_a_server_of_full_weights_reads_no_pickle(data: Path, first: list[tuple[int, str]], tmp_path: Path) -> None:
    """Its pickles are gone, its UNet's source and the LoRA are unreadable; both endpoints answer all the same."""
    assert first[1][0] == 0
    root = Path(shutil.copytree(data / "weights", tmp_path / "weights"))
    for file in [path for path in root.rglob("*") if path.suffix in {".bin", ".pt", ".pth"}]:
        file.unlink()
    shutil.copy(data / "manifest.toml", tmp_path)
    photo = as_data_uri((ROOT / "scripts" / "data" / "astronaut.png").read_bytes())
    bodies = {
        "fal-ai/pulid": {"reference_images": [{"image_url": photo}], "image_size": {"width": 256, "height": 256}},
        "fal-ai/instantid/lcm": {"face_image_url": photo, "num_inference_steps": 2},
    }
    with ServerProcess(tmp_path, **settings(tmp_path)) as server:
        for endpoint, body in bodies.items():
            answer = server.wire.finish(server.wire.submit(endpoint, {"prompt": "portrait", "seed": 1, **body}))
            assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "dtype",
            "was prepared as float32, and this server runs on float16: `veraicon weights prepare` makes it again",
        ),
        ("source", "was made of another pulid/pulid/pulid_v1.bin: `veraicon weights prepare` makes it again"),
        ("cut", "weights.lock says"),
    ],
)
def test_what_is_stale_stops_the_server(
    data: Path, first: list[tuple[int, str]], tmp_path: Path, change: str, told: str
) -> None:
    assert first[1][0] == 0
    root = Path(shutil.copytree(data / "weights", tmp_path / "weights"))
    shutil.copy(data / "manifest.toml", tmp_path)
    if change == "source":
        shutil.copy(root / "instantid" / "ip-adapter.bin", root / "pulid" / "pulid" / "pulid_v1.bin")
    if change == "cut":
        (root / "pulid" / "pulid" / "pulid_v1.safetensors").write_bytes(b"short")
    status, words = run(tmp_path, "weights", "verify", **({"dtype": "float16"} if change == "dtype" else {}))
    assert status == 1
    assert told in words


def test_a_pickle_with_code_in_it_is_not_prepared(tmp_path: Path) -> None:
    """row 80: it is named, nothing in it runs, and nothing is written."""
    ran, bad = tmp_path / "ran", tmp_path / "pulid_v1.bin"
    command = f"touch {ran}".encode()
    bad.write_bytes(b"\x80\x02cos\nsystem\nX" + len(command).to_bytes(4, "little") + command + b"\x85R.")
    with pytest.raises(LoadError, match=r"pulid_v1\.bin was not read: it is not a PyTorch file, or holds more than"):
        prepare(bad.with_suffix(".safetensors"), torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["pulid_v1.bin"]
    pickle.loads(bad.read_bytes())
    assert ran.exists(), "the pickle of this test would have run its code"
