"""The probes of containers, as Docker and Kubernetes start them: over HTTP, over HTTPS, and of what does not answer."""

import json
import socket
import subprocess
import sys
from pathlib import Path

from tests.server_process import ROOT, environment


def probe(data_dir: Path, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment(data_dir, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_alive_asks_a_server_over_http_and_over_https(painting_server, tls_server):
    for server in (painting_server, tls_server):
        asked = probe(server.data_dir, "server.alive", str(server.data_dir))
        assert (asked.returncode, asked.stderr) == (0, "")


def test_alive_says_why_not(tmp_path):
    never = probe(tmp_path, "server.alive", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    (tmp_path / "server.json").write_text(json.dumps({"url": url}))
    silent = probe(tmp_path, "server.alive", str(tmp_path))

    assert (never.returncode, silent.returncode) == (1, 1)
    assert "server.json" in never.stderr
    assert "refused" in silent.stderr


def test_loaded_asks_the_queue_for_the_workers_of_its_host(painting_server):
    url = {"database_url": f"sqlite:///{painting_server.data_dir / 'queue.db'}"}
    here = probe(painting_server.data_dir, "server.loaded", **url)
    elsewhere = probe(painting_server.data_dir, "server.loaded", worker_name="another-host", **url)

    assert (here.returncode, here.stderr) == (0, "")
    assert (elsewhere.returncode, elsewhere.stderr.startswith("not loaded: no worker of this host")) == (1, True)
