"""The probes of containers, as Docker and Kubernetes start them: over HTTP, over HTTPS, and of what does not answer."""

import json
import socket

from tests.server_process import module


def test_alive_asks_a_server_over_http_and_over_https(painting_server, tls_server):
    for server in (painting_server, tls_server):
        asked = module(server.data_dir, "server.alive", str(server.data_dir))
        assert (asked.returncode, asked.stderr) == (0, "")


def test_alive_says_why_not(tmp_path):
    never = module(tmp_path, "server.alive", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    (tmp_path / "server.json").write_text(json.dumps({"url": url}))
    silent = module(tmp_path, "server.alive", str(tmp_path))

    assert (never.returncode, silent.returncode) == (1, 1)
    assert "server.json" in never.stderr
    assert "refused" in silent.stderr


def test_loaded_asks_the_queue_for_the_workers_of_its_host(painting_server):
    url = {"database_url": f"sqlite:///{painting_server.data_dir / 'queue.db'}"}
    here = module(painting_server.data_dir, "server.loaded", **url)
    elsewhere = module(painting_server.data_dir, "server.loaded", worker_name="another-host", **url)

    assert (here.returncode, here.stderr) == (0, "")
    assert (elsewhere.returncode, elsewhere.stderr.startswith("not loaded: no worker of this host")) == (1, True)
