"""A reverse proxy in front, on the wire: TLS ends there, names and schemes stay; trusted peers only are believed."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.forwarded import Trusted
from server.settings import SettingsError, read_settings
from server.tls import TlsFiles, issue
from tests.conftest import PUBLISHED
from tests.front_proxy import front_proxy
from tests.server_process import ROOT, ServerProcess
from tests.wire import QUEUE, Wire
from tests.wire_gate import Gate

MEGABYTE = 1024 * 1024
RECIPE = ROOT / "deploy" / "nginx" / "veraicon.conf"
FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "fal.example"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> TlsFiles:
    return issue(tmp_path_factory.mktemp("front"), ["gpu1.lan"])


@pytest.fixture(scope="module")
def tiny_front(painting_server, files) -> Iterator[Wire]:
    said = ("X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.9")
    with front_proxy(painting_server.wire.address, files.certificate, files.key, *said) as wire:
        yield wire


@pytest.fixture(scope="module")
def nginx_front(painting_server, files, tmp_path_factory) -> Iterator[Wire]:
    """deploy/nginx/veraicon.conf as it is, but for port, paths and the server's address."""
    if not (program := shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")):
        pytest.skip("NOT RUN: the nginx recipe is checked where nginx is installed (apt-get install nginx)")
    folder = tmp_path_factory.mktemp("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = RECIPE.read_text().replace("listen 443", f"listen 127.0.0.1:{port}")
    recipe = recipe.replace("127.0.0.1:8000", painting_server.wire.address)
    recipe = recipe.replace("/var/lib/veraicon/tls", str(files.folder))
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    around = f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {places} {recipe} }}"
    (folder / "nginx.conf").write_text(around)
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as running:
        try:
            wait_for_port(port, running, folder / "log")
            yield Wire(f"127.0.0.1:{port}", front_trust(files))
        finally:
            running.terminate()


def front_trust(files: TlsFiles) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=files.authority)


def wait_for_port(port: int, running: subprocess.Popen, log: Path) -> None:
    limit = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.05)
        else:
            return


@pytest.fixture(params=["tiny_front", "nginx_front"])
def front(request: pytest.FixtureRequest) -> Wire:
    return request.getfixturevalue(request.param)


def test_urls_name_the_clients_host_and_scheme_behind_a_proxy(front, pulid_input):
    """1, 9, §1.6: TLS ends at the proxy, and the URLs still say https and fal's name."""
    request = front.submit("fal-ai/pulid", pulid_input)

    assert request["status_url"].startswith(f"https://{QUEUE}/fal-ai/pulid/requests/")
    image = front.finish(request).json["images"][0]
    assert image["url"].startswith(f"https://{QUEUE}/files/")
    assert front.follow(image["url"]).status == 200


def test_everything_is_reached_below_one_plain_name(front, pulid_input):
    """9: one host name with path prefixes, behind a proxy as without."""
    answer = front.post("/queue/fal-ai/pulid", pulid_input, host="gpu1.localhost:8443")

    assert answer.json["status_url"].startswith("https://gpu1.localhost:8443/queue/fal-ai/pulid/requests/")
    assert front.finish(answer.json).json["images"][0]["url"].startswith("https://gpu1.localhost:8443/files/")
    upload = front.post("/storage/upload/initiate", {"content_type": "text/plain"}, host="gpu1.localhost:8443").json
    assert upload["upload_url"].startswith("https://gpu1.localhost:8443/")


def test_the_status_stream_is_not_buffered(front, wire, tmp_path):
    """38, 42: the first event is there while the request still runs."""
    gate = Gate(wire, tmp_path / "gate")
    request = gate.run()
    connection = front.connect()
    front.send(connection, "GET", request["status_url"].partition(QUEUE)[2] + "/stream")
    response = connection.getresponse()
    first = response.readline()
    still_running = not gate.trace("finished")
    gate.close()
    rest = response.read()
    connection.close()

    assert response.headers["content-type"].startswith("text/event-stream")
    assert json.loads(first.removeprefix(b"data: "))["status"] == "IN_PROGRESS"
    assert still_running
    assert b'"COMPLETED"' in rest


def test_a_held_poll_is_answered_through_the_proxy(front, wire, tmp_path):
    """37."""
    gate = Gate(wire, tmp_path / "gate")
    request = gate.run()
    front.status(request)
    threading.Timer(0.1, gate.open).start()
    answer = front.wait_for(request, "COMPLETED")
    gate.close()

    assert answer.status == 200


def test_a_large_upload_is_not_cut(front):
    """69, 74: 100 MiB through the recipe, as much as fal-client sends in one piece."""
    begun = front.post("/storage/upload/initiate", {"content_type": "application/x-test"}, host="rest.fal.ai").json
    size = 100 * MEGABYTE
    assert front.follow(begun["upload_url"], "PUT", body=bytes(size), timeout_s=120).status == 200
    kept = front.follow(begun["file_url"], "HEAD")

    assert int(kept.headers["content-length"]) == size


def test_reason_phrases_and_error_bodies_pass(front, pulid_input):
    """0.8, 54: the reason phrase is the message that JavaScript shows."""
    missing = front.get("/fal-ai/pulid/requests/nothing/status")
    invalid = front.post("/fal-ai/pulid", {**pulid_input, "num_images": 9}, host="fal.run")

    assert (missing.status, missing.reason) == (404, "Not Found")
    assert missing.json["detail"]
    assert invalid.status == 422
    assert invalid.reason.startswith("Unprocessable")
    assert invalid.json["detail"][0]["loc"] == ["body", "num_images"]
    assert invalid.headers["x-fal-request-id"]


def test_a_trusted_proxy_may_tell_the_host_where_it_changes_it(wire, pulid_input):
    """§1.6: for proxies that send their own Host to the server and the client's in X-Forwarded-Host."""
    answer = wire.post(
        "/queue/fal-ai/pulid",
        pulid_input,
        host="127.0.0.1:8000",
        headers={**FORWARDED, "X-Forwarded-Host": "localhost"},
    )

    assert answer.json["status_url"].startswith("https://localhost/queue/fal-ai/pulid/")


@pytest.fixture(scope="module")
def distrusting(tmp_path_factory) -> Iterator[Wire]:
    """A server that believes another proxy, not this machine."""
    folder = tmp_path_factory.mktemp("distrusting")
    with ServerProcess(folder, "api", catalog=PUBLISHED, trusted_proxies="10.9.9.0/24") as server:
        yield server.wire


def test_a_client_cannot_forge_what_a_proxy_says(distrusting, pulid_input):
    """Its X-Forwarded-* change neither scheme nor host, whoever sends them."""
    plain = distrusting.post("/queue/fal-ai/pulid", pulid_input, host=None, headers=FORWARDED)

    assert plain.json["status_url"].startswith(f"http://{distrusting.address}/queue/")


def test_a_forged_host_does_not_open_a_server_without_keys(distrusting, pulid_input):
    """81: DNS rebinding is refused by the real Host."""
    answer = distrusting.post(
        "/queue/fal-ai/pulid", pulid_input, host="evil.example", headers={"X-Forwarded-Host": "localhost"}
    )

    assert answer.status == 403


@pytest.mark.parametrize(
    ("trusted", "peer", "believed"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("10.0.0.0/8, fd00::/8", "10.200.3.4", True),
        ("10.0.0.0/8, fd00::/8", "fd00::7", True),
        ("10.0.0.0/8, fd00::/8", "2001:db8::1", False),
        ("*", "203.0.113.9", True),
        ("", "127.0.0.1", False),
        ("127.0.0.1", "no address", False),
    ],
)
def test_proxies_are_believed_by_address_and_network(trusted, peer, believed):
    assert (peer in Trusted.of(trusted)) is believed


def test_a_trusted_proxy_that_is_no_address_is_refused_at_the_start():
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES"):
        read_settings(trusted_proxies="proxy.lan")


def test_a_rebound_page_cannot_name_another_host_for_itself(wire):
    """A server without keys believes X-Forwarded-Host of this machine, and so of a page that a browser here shows."""
    path = "/queue/fal-ai/pulid/requests/6f1f8dc4-8f0e-4d67-9a0e-0d8c7d6e2b11/status"
    forwarded = {"X-Forwarded-Host": "localhost"}
    assert wire.get(path, host="localhost", headers=forwarded).status == 404
    assert wire.get(path, host="evil.example", headers=forwarded).status == 403
    assert wire.get(path, host="evil.example", headers=forwarded | {"X-Asked-Host": "localhost"}).status == 403
