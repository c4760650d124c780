"""Before and beside a download: licences, room, pins, and files that lie on this machine already."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from tests.hub import LARGE_BYTES, Hub
from tests.integration.pulling import ACCEPT, LORA, ask, said
from tests.server_process import ROOT, environment
from tests.tiny_hub import content, tiny_manifest
from weights.bundle import sources_of
from weights.lock import read_lock
from weights.store import sha256_of, tiny_root


def test_a_source_that_contradicts_the_manifest_is_not_fetched(hub, manifest, tmp_path):
    place, wrong = f'target = "instantid/{LORA}"', "0" * 64
    manifest.write_text(manifest.read_text().replace(place, f'{place}\nsha256 = "{wrong}"'))
    ran = ask(tmp_path, manifest, hub, "pull", "lcm-lora", *ACCEPT)
    assert ran.returncode == 1
    right = sha256_of(tiny_root() / "instantid" / LORA)
    assert (
        f"its source has sha256 {right}, the manifest has {wrong}. Nothing was fetched. Bring the right file"
        in said(ran)
    )
    assert not [path for path in hub.paths() if "/resolve/" in path]


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(hub, manifest, tmp_path):
    text = manifest.read_text()
    place = f'target = "instantid/{LORA}"'
    manifest.write_text(text.replace(place, f"{place}\nsize = {10**15}"))
    ran = ask(tmp_path, manifest, hub, "pull", "lcm-lora", *ACCEPT)
    assert ran.returncode == 1
    assert re.search(r"needs 1000000\.2 GB more, and its disk has [\d.]+ GB free: make room, or choose", said(ran))
    assert not [path for path in hub.paths() if "/resolve/" in path]
    assert not list((tmp_path / "weights").rglob("*.safetensors*"))


def typed(tmp_path: Path, manifest: Path, hub: Hub, answer: bytes) -> subprocess.CompletedProcess[bytes]:
    """A pull of two checkpoints whose question somebody answers at a terminal."""
    terminal, keyboard = pty.openpty()
    try:
        os.write(terminal, answer)
        return subprocess.run(
            [sys.executable, "-m", "server.cli", "weights", "pull", "lcm-lora", "antelopev2"],
            env=environment(tmp_path, weights_manifest=manifest, hub_endpoint=hub.url),
            cwd=ROOT,
            stdin=keyboard,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(keyboard)


def test_at_a_terminal_the_licences_are_shown_and_asked_for_once(hub, manifest, tmp_path):
    no = typed(tmp_path, manifest, hub, b"n\n")
    assert no.returncode == 1
    assert b"without their licences accepted, nothing is downloaded" in no.stderr
    assert hub.asked == []
    assert read_lock(tmp_path / "weights").licences == {}

    yes = typed(tmp_path, manifest, hub, b"y\n")
    assert yes.returncode == 0, yes.stderr
    assert b"Have you read and do you accept the licences of lcm-lora, antelopev2?" in yes.stdout
    assert b"antelopev2: InsightFace model licence: non-commercial research only" in yes.stdout
    assert set(read_lock(tmp_path / "weights").licences) == {"lcm-lora", "antelopev2"}

    again = typed(tmp_path, manifest, hub, b"")
    assert again.returncode == 0
    assert b"do you accept" not in again.stdout


def test_a_repositorys_licence_comes_along_and_travels_in_bundles(hub, manifest, tmp_path):
    for repository in ("latent-consistency/lcm-lora-sdxl", "diffusers/controlnet-depth-sdxl-1.0-small"):
        hub.repositories[repository] |= {"LICENSE.md": b"its terms", "licensed.txt": b"none", "LICENSE./x": b"none"}
    ran = ask(tmp_path, manifest, hub, "pull", "lcm-lora", "controlnet-depth", *ACCEPT)
    assert ran.returncode == 0, said(ran)
    assert len([path for path in hub.paths() if path.endswith("LICENSE.md")]) == 1
    texts = {f"licences/{name}/LICENSE.md": b"its terms" for name in ("lcm-lora", "controlnet-depth")}
    root = tmp_path / "weights"
    there = [path for path in (root / "licences").rglob("*") if path.is_file()]
    assert {path.relative_to(root).as_posix(): path.read_bytes() for path in there} == texts
    assert {read_lock(root).files[target].known for target in texts} == {"hub"}
    assert texts.keys() <= {source.path.removeprefix("weights/") for source in sources_of(root)}
    hub.asked.clear()
    assert ask(tmp_path, manifest, hub, "pull", "lcm-lora", "controlnet-depth").returncode == 0
    assert hub.asked == []


def test_a_manifest_may_name_files_of_this_machine(hub, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    manifest = tiny_manifest(tmp_path / "manifest.toml", folder.as_uri())
    lacking = ask(tmp_path, manifest, hub, "pull", "bisenet", *ACCEPT)
    assert lacking.returncode == 1
    assert f"{folder}/parsing_bisenet.pth is not there: put it there, or mend the manifest" in said(lacking)
    for name, body in hub.releases.items():
        (folder / name).write_bytes(body)
    ran = ask(tmp_path, manifest, hub, "pull", "bisenet", "antelopev2", *ACCEPT)
    assert ran.returncode == 0, said(ran)
    lock = read_lock(tmp_path / "weights").files
    assert lock["pulid/facexlib/parsing_bisenet.pth"].known == "local"
    assert lock["antelopev2/glintr100.onnx"].known == "manifest"


def test_what_is_pinned_stays_the_same_commit_until_an_update(hub, manifest, tmp_path):
    repository, target = "latent-consistency/lcm-lora-sdxl", tmp_path / "weights" / "instantid" / LORA
    assert ask(tmp_path, manifest, hub, "pull", "lcm-lora", *ACCEPT).returncode == 0
    old = hub.commit(repository)
    hub.repositories[repository][LORA] = content("pulid/sdxl_lightning/sdxl_lightning_4step_unet.safetensors")
    target.unlink()
    ran = ask(tmp_path, manifest, hub, "pull", "lcm-lora")
    assert ran.returncode == 1
    assert f"no revision {old}: `pull --update` takes its newest one" in said(ran)
    assert ask(tmp_path, manifest, hub, "pull", "lcm-lora", "--update").returncode == 0
    assert read_lock(tmp_path / "weights").checkpoints["lcm-lora"].commit == hub.commit(repository) != old
    assert target.stat().st_size == len(hub.repositories[repository][LORA])


def test_without_a_network_the_files_come_from_a_folder(hub, manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = ask(tmp_path, manifest, hub, "pull", "lcm-lora", "controlnet-depth", "antelopev2", *ACCEPT)
    assert "unset HF_HUB_OFFLINE for `veraicon weights pull`, or use `--from`" in said(offline)

    folder = tmp_path / "brought"
    places = {
        "instantid/pytorch_lora_weights.safetensors": LORA,
        "instantid/controlnet-depth-small/config.json": "diffusers/controlnet-depth-sdxl-1.0-small/config.json",
        "antelopev2/glintr100.onnx": "antelopev2/antelopev2/glintr100.onnx",
        "antelopev2/scrfd_10g_bnkps.onnx": "antelopev2/scrfd_10g_bnkps.onnx",
    }
    for target, place in places.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content(target))
    names = ("lcm-lora", "controlnet-depth", "antelopev2")
    lacking = ask(tmp_path, manifest, hub, "pull", *names, "--from", str(folder))
    assert f"{folder} lacks instantid/controlnet-depth-small/diffusion_pytorch_model.safetensors" in said(lacking)
    name = "diffusion_pytorch_model.fp16.safetensors"
    snapshot = folder / "models--diffusers--controlnet-depth-sdxl-1.0-small" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / name).write_bytes(content("instantid/controlnet-depth-small/diffusion_pytorch_model.safetensors"))
    brought = ask(tmp_path, manifest, hub, "pull", *names, "--from", str(folder))
    assert brought.returncode == 0, said(brought)
    assert hub.asked == []
    assert ask(tmp_path, manifest, hub, "verify", *names, "--deep").returncode == 0
    lock = read_lock(tmp_path / "weights").files
    assert lock["antelopev2/glintr100.onnx"].known == "manifest"
    assert lock["instantid/pytorch_lora_weights.safetensors"].known == "local"


def test_a_file_of_ones_own_stays_and_a_wrong_face_model_does_not(hub, manifest, tmp_path):
    root = tmp_path / "weights"
    own = content("pulid/sdxl_lightning/sdxl_lightning_4step_unet.safetensors")
    for target, body in {f"instantid/{LORA}": own, "antelopev2/glintr100.onnx": b"another model"}.items():
        (root / target).parent.mkdir(parents=True)
        (root / target).write_bytes(body)
    ran = ask(tmp_path, manifest, hub, "pull", "lcm-lora", "antelopev2", *ACCEPT)
    assert ran.returncode == 0, said(ran)
    assert (root / "instantid" / LORA).read_bytes() == own
    assert "left as it is" in said(ran)
    assert (root / "antelopev2" / "glintr100.onnx").read_bytes() == content("antelopev2/glintr100.onnx")
    assert len(own) > LARGE_BYTES
