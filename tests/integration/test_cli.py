"""The command `veraicon`, run as its users run it."""

import json
import os
import re
import signal
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from server.settings import Settings
from tests.conftest import PUBLISHED
from tests.server_process import NotStarted, ServerProcess, veraicon

BOUND_S = 15.0


def refusal(folder, *words, **settings) -> str:
    """The message with which a command that must not work ends."""
    done = veraicon(folder, *words, **settings)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_key_is_shown_once_and_opens_the_server(tmp_path):
    made = veraicon(tmp_path, "keys", "create", "anna")
    key = made.stdout.splitlines()[-1]
    listed = veraicon(tmp_path, "keys", "list")

    assert re.fullmatch(r"[0-9a-f-]{36}:[0-9a-f]{64}", key)
    assert "anna" in listed.stdout
    assert key.partition(":")[2] not in listed.stdout + listed.stderr
    assert "is, or was, a key" in refusal(tmp_path, "keys", "create", "anna")
    assert veraicon(tmp_path, "keys", "revoke", "anna").returncode == 0
    assert veraicon(tmp_path, "keys", "revoke", "anna").returncode == 1


def test_a_server_that_others_can_reach_needs_a_key(tmp_path):
    message = refusal(tmp_path, "serve", "--host", "0.0.0.0")

    assert "no API key" in message
    assert "veraicon keys create NAME" in message


def test_missing_weights_are_named_with_what_to_do(tmp_path):
    message = refusal(tmp_path, "serve", weights="full", device="cpu")

    assert "antelopev2" in message
    assert "veraicon weights" in message
    assert "--weights tiny" in message


def test_an_unknown_setting_refuses_to_start(tmp_path):
    assert "VERAICON_JOB_TIMEOUT" in refusal(tmp_path, "serve", job_timeout=5)


@pytest.mark.parametrize("catalog", ["nonsense", "no.such.module:X", "pipelines.catalog:NOTHING"])
def test_a_wrong_catalog_is_named(tmp_path, catalog):
    assert catalog in refusal(tmp_path, "serve", catalog=catalog)


def test_a_taken_port_is_named_with_what_to_do(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refusal(tmp_path, "serve", port=port)

    assert f"127.0.0.1:{port}" in message
    assert "--port 0" in message


def test_an_unreadable_certificate_is_named(tmp_path):
    (tmp_path / "bad.pem").write_text("nonsense")
    message = refusal(tmp_path, "serve", tls_cert=tmp_path / "bad.pem", tls_key=tmp_path / "bad.pem")

    assert "bad.pem" in message
    assert "both" in refusal(tmp_path, "serve", tls_cert=tmp_path / "bad.pem")


def test_tls_issue_says_what_clients_must_do(tmp_path):
    done = veraicon(tmp_path, "tls", "issue", "--name", "gpu1.studio.lan")

    assert done.returncode == 0
    for word in ("gpu1.studio.lan", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "veraicon serve --tls", str(tmp_path)):
        assert word in done.stdout


def test_settings_lists_every_setting_also_as_markdown(tmp_path):
    shown = veraicon(tmp_path, "settings", "--markdown").stdout

    for name in Settings.model_fields:
        assert f"| `VERAICON_{name.upper()}` |" in shown
    assert veraicon(tmp_path, "settings").returncode == 0


def test_weights_list_names_every_checkpoint_and_its_state(tmp_path):
    shown = veraicon(tmp_path, "weights", "list").stdout

    assert "antelopev2" in shown
    assert "missing" in shown


def test_doctor_finds_a_healthy_tiny_machine(tmp_path):
    done = veraicon(tmp_path, "doctor")

    assert done.returncode == 0, done.stdout
    for name in ("python", "packages", "device", "disk", "weights", "tls", "keys", "port"):
        assert re.search(rf"^\S+ +{name}", done.stdout, re.MULTILINE), name
    assert "CPUExecutionProvider" in done.stdout


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="says what a machine without a GPU lacks")
def test_doctor_names_what_keeps_full_weights_from_being_served(tmp_path):
    done = veraicon(tmp_path, "doctor", weights="full")

    assert done.returncode == 1
    assert "torch sees no NVIDIA GPU" in done.stdout
    assert "antelopev2" in done.stdout
    assert done.stdout.count("->") >= 3


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_with_all_its_processes_in_bounded_time(tmp_path, signal_number):
    with ServerProcess(tmp_path, catalog=PUBLISHED) as server:
        family = server.family()
        server.process.send_signal(signal_number)
        began = time.monotonic()
        assert server.process.wait(BOUND_S) == 0
        assert time.monotonic() - began < BOUND_S
        psutil.wait_procs(family, timeout=1)

    assert len(family) == 3
    assert not any(process.is_running() for process in family)
    assert not (tmp_path / "server.json").exists()


def test_an_open_event_stream_does_not_hold_up_the_end(tmp_path):
    with ServerProcess(tmp_path, "api", catalog=PUBLISHED) as server:
        face = {"image_url": "https://example.invalid/face.png"}
        request = server.wire.submit("fal-ai/pulid", {"prompt": "x", "reference_images": [face]})
        connection = server.wire.connect()
        server.wire.send(connection, "GET", request["status_url"].partition("queue.fal.run")[2] + "/stream")
        assert connection.getresponse().status == 200
        server.process.terminate()
        assert server.process.wait(BOUND_S) == 0
        connection.close()


def test_callers_wait_through_a_crash_of_the_http_process(tmp_path):
    """The listening socket belongs to the parent: nobody's connection is refused."""
    with ServerProcess(tmp_path, "api", catalog=PUBLISHED) as server:
        [http] = psutil.Process(server.process.pid).children()
        wire = server.wire
        http.kill()
        answers = [wire.get("/health", host=None).status for _ in range(3)]
        [successor] = psutil.Process(server.process.pid).children()

    assert answers == [200, 200, 200]
    assert successor.pid != http.pid


def test_no_process_is_left_after_a_kill_9_of_the_server(tmp_path):
    with ServerProcess(tmp_path, catalog=PUBLISHED) as server:
        family = server.family()
        os.kill(server.process.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs(family, timeout=BOUND_S)

        assert len(gone) == 3
        assert alive == []


def test_keys_and_prompts_never_reach_the_log(tmp_path):
    key = veraicon(tmp_path, "keys", "create", "anna").stdout.splitlines()[-1]
    with ServerProcess(tmp_path, catalog=PUBLISHED, log_level="DEBUG", outbound="127.0.0.0/8") as server:
        owner = {"Authorization": f"Key {key}"}
        body = {"prompt": "sekretprompt", "reference_images": [{"image_url": "data:image/png;base64,c2VrcmV0"}]}
        hook = "?fal_webhook=http%3A%2F%2F127.0.0.1%3A9%2Fsekrethook"
        answer = server.wire.post(f"/fal-ai/pulid{hook}", body, headers=owner)
        assert answer.status == 200
        server.wire.post("/fal-ai/pulid", b'{"prompt": "sekretprompt"', headers=owner)
        while server.wire.status(answer.json, headers=owner).json["status"] != "COMPLETED":
            time.sleep(0.05)
        log = server.log

    assert "request" in log
    assert "sekret" not in log
    assert "c2VrcmV0" not in log
    assert key.partition(":")[2] not in log


def test_logs_can_be_json(tmp_path):
    with ServerProcess(tmp_path, catalog=PUBLISHED, log_format="json") as server:
        server.wire.get("/nothing", host=None)
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]

    assert any(line["event"] == "request" and line["status"] == 404 for line in lines)
    assert all(datetime.fromisoformat(line["timestamp"]).tzinfo == UTC for line in lines)


def test_serve_says_where_it_is_and_that_tiny_pictures_are_noise(tls_server):
    said = tls_server.log

    assert tls_server.url in said
    assert "noise" in said
    assert "ca.pem" in said


def test_a_server_that_cannot_start_says_so_at_once(tmp_path):
    began = time.monotonic()
    with pytest.raises(NotStarted, match="no API key"), ServerProcess(tmp_path, "serve", host="0.0.0.0"):
        pass
    assert time.monotonic() - began < BOUND_S
