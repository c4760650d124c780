"""`veraicon weights pull | verify | list` against a hub on this machine, as processes, over real sockets."""

import random
import re
import signal
import subprocess
import sys
import time

from tests.integration.pulling import ACCEPT, LORA, ask, said
from tests.server_process import ROOT, environment
from tests.tiny_hub import content, targets
from weights.lock import read_lock, sole_writer
from weights.manifest import read_manifest
from weights.store import sha256_of, tiny_root


def test_everything_is_pulled_verified_and_pinned_once(hub, manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.manners.token = "hf_secret"
    root = tmp_path / "weights"
    refused = ask(tmp_path, manifest, hub, "pull", "lcm-lora")
    assert refused.returncode == 1
    assert "the licences of lcm-lora are not accepted" in said(refused)
    assert hub.asked == []

    pulled = ask(tmp_path, manifest, hub, "pull", "all", *ACCEPT)
    assert pulled.returncode == 0, said(pulled)
    assert [target for target in targets(manifest) if (root / target).read_bytes() != content(target)] == []
    assert "hf_secret" not in said(pulled)
    assert {token for host, token in hub.sent_tokens if host == hub.content_url.removeprefix("http://")} == {""}

    lock = read_lock(root)
    assert lock.licences.keys() == read_manifest(manifest).keys()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", day) for day in lock.licences.values())
    assert lock.checkpoints["lcm-lora"].commit == hub.commit("latent-consistency/lcm-lora-sdxl")
    known = {target: lock.files[target].known for target in targets(manifest)}
    assert known["antelopev2/glintr100.onnx"] == "manifest"
    assert known["pulid/facexlib/parsing_bisenet.pth"] == "release"
    assert known["instantid/ip-adapter.bin"] == "hub"
    assert len([path for path in hub.paths() if path.endswith("antelopev2.zip")]) == 1

    hub.asked.clear()
    again = ask(tmp_path, manifest, hub, "pull", "all")
    assert again.returncode == 0
    assert hub.asked == [], "what is there and pinned is not asked for again"
    listed = ask(tmp_path, manifest, hub, "list").stdout
    assert re.search(r"lcm-lora +instantid +verified", listed)
    assert re.search(r"bisenet +pulid +present", listed)
    assert re.search(r"dwpose +optional +verified", listed)


def test_a_pull_that_is_killed_five_times_ends_verified_and_never_shows_half_a_file(hub, manifest, tmp_path):
    root, chance = tmp_path / "weights", random.Random(5)
    hub.manners.pause_s = 0.02
    settings = {"weights_manifest": manifest, "hub_endpoint": hub.url}
    resumed = 0
    for _ in range(5):
        hub.asked.clear()
        process = subprocess.Popen(
            [sys.executable, "-m", "server.cli", "weights", "pull", "fal-ai/pulid", *ACCEPT],
            env=environment(tmp_path, **settings),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        limit = time.monotonic() + 30
        while not any(path.startswith("/content/") for path in hub.paths()) and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        resumed += sum("range" in headers for _, _, headers in hub.asked)
        for target in targets(manifest):
            assert not (root / target).exists() or (root / target).read_bytes() == content(target), target

    hub.manners.pause_s = 0
    hub.asked.clear()
    ended = ask(tmp_path, manifest, hub, "pull", "fal-ai/pulid", *ACCEPT)
    assert ended.returncode == 0, said(ended)
    assert resumed + sum("range" in headers for _, _, headers in hub.asked) > 0, "nothing was resumed"
    assert ask(tmp_path, manifest, hub, "verify", "fal-ai/pulid", "--deep").returncode == 0


def test_a_flipped_byte_in_any_file_is_found_named_and_repaired(hub, manifest, tmp_path):
    """row 80: each file has one byte changed, anywhere; `verify --deep` names each, `--repair` fetches just those."""
    root, chance = tmp_path / "weights", random.Random(7)
    assert ask(tmp_path, manifest, hub, "pull", "all", *ACCEPT).returncode == 0
    flipped = set()
    for target in targets(manifest):
        path = root / target
        if path.stat().st_ino in flipped:
            continue
        flipped.add(path.stat().st_ino)  # the endpoints share files: a second flip would undo the first
        body = bytearray(path.read_bytes())
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        with path.open("r+b") as stream:
            stream.write(body)
    found = ask(tmp_path, manifest, hub, "verify", "all", "--deep")
    assert found.returncode == 1
    unnamed = [target for target in targets(manifest) if f"  {target} " not in found.stdout]
    assert unnamed == []
    right = sha256_of(tiny_root() / "instantid" / LORA)
    assert f"expected {right}: `veraicon weights verify --repair`" in said(found)

    mended = ask(tmp_path, manifest, hub, "verify", "all", "--deep", "--repair")
    assert mended.returncode == 0, said(mended)
    assert all((root / target).read_bytes() == content(target) for target in targets(manifest))


def test_what_cannot_be_had_is_named_with_what_to_do(hub, manifest, tmp_path):
    """row 80: nothing that the hub did not promise gets a name below the root; the rest of a pull goes on."""
    faults = {"ip-adapter.bin": 401, "pulid_v1.bin": 403, "EVA02_CLIP_L_336_psz14_s6B.pt": 404, "yolox_l.onnx": 503}
    hub.manners.statuses = {end: [status] * 9 for end, status in faults.items()}
    hub.manners.wrong = {LORA}
    names = ("instantid", "pulid-v1", "eva02-clip-l-336", "dwpose", "lcm-lora")
    ran = ask(tmp_path, manifest, hub, "pull", *names, *ACCEPT)
    assert ran.returncode == 1
    assert "veraicon: 5 files are still missing:" in said(ran)
    right = sha256_of(tiny_root() / "instantid" / LORA)
    for told in (
        "ip-adapter.bin answered 401: it is private, needs its terms accepted",
        "pulid_v1.bin answered 403: your token may not read it",
        "s6B.pt answered 404: nothing is there any more. A mirror may have it",
        "yolox_l.onnx answered 503, 6 times. What has arrived is kept",
        f"{LORA} has sha256 [0-9a-f]{{64}}, expected {right}: nothing of it was kept",
    ):
        assert re.search(told, said(ran)), (told, said(ran))
    assert "Traceback" not in said(ran)
    there = {path.relative_to(tmp_path / "weights").as_posix() for path in (tmp_path / "weights").rglob("*.*")}
    assert {"instantid/ControlNetModel/config.json", "dwpose/dw-ll_ucoco_384.onnx"} < there
    assert not {f"instantid/{LORA}", "instantid/ip-adapter.bin", "pulid/pulid/pulid_v1.bin"} & there


def test_a_closed_repository_says_which_token_it_wants(hub, manifest, tmp_path):
    hub.manners.token = "hf_other"
    ran = ask(tmp_path, manifest, hub, "pull", "lcm-lora", *ACCEPT)
    assert ran.returncode == 1
    assert "latent-consistency/lcm-lora-sdxl answered 401: it is private, needs its terms accepted" in said(ran)
    assert "set HF_TOKEN" in said(ran)


def test_a_hub_that_is_busy_or_breaks_off_is_outwaited(hub, manifest, tmp_path):
    hub.manners.statuses = {LORA: [429, 503], "lcm-lora-sdxl": [429]}
    hub.manners.cut = {LORA: 150_000}
    ran = ask(tmp_path, manifest, hub, "pull", "lcm-lora", *ACCEPT)
    assert ran.returncode == 0, said(ran)
    ranges = [headers["range"] for _, path, headers in hub.asked if "range" in headers and path.startswith("/content")]
    assert ranges == ["bytes=150000-", "bytes=300000-"]
    assert (tmp_path / "weights" / "instantid" / LORA).read_bytes() == content(f"instantid/{LORA}")


def test_a_hub_that_ignores_ranges_gives_the_whole_file_once_more(hub, manifest, tmp_path):
    """What came before a kill is thrown away, not written twice: one request, and the right bytes."""
    hub.manners.pause_s = 0.2
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "weights", "pull", "lcm-lora", *ACCEPT],
        env=environment(tmp_path, weights_manifest=manifest, hub_endpoint=hub.url),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 30
    while not any(part.stat().st_size for part in (tmp_path / "weights" / ".incoming").glob("*")):
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()

    hub.manners.pause_s, hub.manners.ranges = 0, False
    hub.asked.clear()
    ran = ask(tmp_path, manifest, hub, "pull", "lcm-lora")
    assert ran.returncode == 0, said(ran)
    asked = [headers.get("range", "") for _, path, headers in hub.asked if path.startswith("/content")]
    assert len(asked) == 1
    assert re.fullmatch(r"bytes=\d+-", asked[0])
    assert (tmp_path / "weights" / "instantid" / LORA).read_bytes() == content(f"instantid/{LORA}")


def test_two_commands_do_not_change_the_weights_at_once(hub, manifest, tmp_path):
    with sole_writer(tmp_path / "weights"):
        ran = ask(tmp_path, manifest, hub, "pull", "lcm-lora", *ACCEPT)
    assert ran.returncode == 1
    assert "another `veraicon weights` command is at work" in said(ran)
