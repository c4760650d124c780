"""The wheel of this working tree: its data travels with it, and nothing else does."""

import random
import re
import subprocess
import time
import zipfile

import pytest

from tests.sealed_room import sealed_environment
from tests.tiny_hub import content, targets


@pytest.fixture(scope="module")
def names(wheelhouse) -> set[str]:
    """What the one wheel of ours holds."""
    (wheel,) = wheelhouse.glob("veraicon-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_the_three_packages_with_their_data(names):
    for file in ("weights/manifest.toml", "weights/tiny/antelopev2/glintr100.onnx", "server/web/index.html"):
        assert file in names
    assert "pipelines/instantid/styles.json" in names


def test_nothing_but_the_three_packages_travels(names):
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"server", "pipelines", "weights"}


def test_both_endpoints_answer_from_the_installed_wheel(sealed):
    assert set(sealed.report["portraits"]) == {"fal-ai/instantid/lcm", "fal-ai/pulid"}
    assert (sealed.folder / "venv" / "bin" / "veraicon").is_file()


def test_the_installed_application_ends_a_pull_that_was_killed_five_times(sealed, hub, manifest, tmp_path):
    """Nothing of the checkout is read; and one byte that is flipped afterwards is found and named."""
    chance = random.Random(11)

    def command(*words):
        return [sealed.folder / "venv" / "bin" / "veraicon", "weights", *words]

    env = sealed_environment(tmp_path, weights_manifest=manifest, hub_endpoint=hub.url, device="cpu")
    pull = command("pull", "fal-ai/pulid", "--accept-licence", "all")
    hub.manners.pause_s = 0.02
    for _ in range(5):
        with subprocess.Popen(pull, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(0.3, 1.8))
            process.kill()
        there = {name for name in targets(manifest) if (tmp_path / "weights" / name).exists()}
        assert [name for name in there if (tmp_path / "weights" / name).read_bytes() != content(name)] == []
    hub.manners.pause_s = 0
    subprocess.run(pull, cwd=tmp_path, env=env, check=True)
    verify = command("verify", "fal-ai/pulid", "--deep")
    subprocess.run(verify, cwd=tmp_path, env=env, check=True)
    target = "pulid/pulid/pulid_v1.bin"
    body = bytearray((tmp_path / "weights" / target).read_bytes())
    body[chance.randrange(len(body))] ^= 1
    (tmp_path / "weights" / target).write_bytes(body)
    found = subprocess.run(verify, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert f"{target} has sha256" in found.stdout


def test_the_installed_application_bundles_for_the_next_room_and_installs_it_there(sealed, wheelhouse, tmp_path):
    """What it carries on is byte for byte what the checkout bundled; nothing of the checkout is read."""

    def run(*words, folder=tmp_path):
        program = [sealed.folder / "venv" / "bin" / "veraicon", *words]
        env = sealed_environment(folder)
        return subprocess.run(program, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)

    bundle = tmp_path / "next.bundle"
    made = run("bundle", "--all", str(bundle), "--wheelhouse", str(wheelhouse), "--weights", "tiny")
    assert made.returncode == 0, made.stderr
    installed = run("weights", "install", str(bundle), folder=tmp_path / "next")
    assert installed.returncode == 0, installed.stderr
    first, second = (sorted(hashes_in(text)) for text in (sealed.report["bundle"], made.stdout))
    assert first == second
    assert first == sorted(hashes_in(installed.stdout))


def hashes_in(text: str) -> set[str]:
    return set(re.findall(r"index sha256 ([0-9a-f]{64})", text))
