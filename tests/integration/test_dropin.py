"""veraicon dropin: what clients must be told, and the check on their machine (fal-protocol.md §1.5, §1.6)."""

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from server.dropin import guide
from server.dropin.check import FALLBACK, NAMES, Line, Look, examine
from server.hosts import FAL_HOSTS
from tests.clients.island import way_in
from tests.server_process import ROOT, veraicon

REQUIRED = {"fal.run", "queue.fal.run", "ws.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media", *FALLBACK}
"""fal-protocol.md §1.6."""
HERE = guide.Server("10.0.0.5", "gpu1.lan", Path("/etc/ssl/studio.pem"))


@pytest.fixture
def look(tls_server) -> Look:
    """A Python client's machine on which all is well, but for its resolver a simulated one."""
    environment = {"FAL_KEY": "any", "SSL_CERT_FILE": str(tls_server.ca_file)}
    return Look("python", "127.0.0.1", urlsplit(tls_server.url).port, environment, lambda *_: {"127.0.0.1"})


def problems(look: Look) -> list[Line]:
    return [line for line in examine(look) if line.remedy]


@pytest.mark.parametrize("client", NAMES)
def test_a_machine_on_which_all_is_well_has_no_problem(look, client):
    """1: every name that this family of clients calls leads to a server with a certificate for it."""
    environment = {**look.environment, "NODE_EXTRA_CA_CERTS": look.environment["SSL_CERT_FILE"]}
    lines = list(examine(replace(look, client=client, environment=environment)))

    assert [line for line in lines if line.remedy] == []
    assert {line.about for line in lines} == {"authority", "key", *NAMES[client]}
    assert Line("key", "accepted") in lines


def test_a_name_that_leads_elsewhere_is_named_with_the_remedy(look):
    elsewhere = replace(look, resolve=lambda name, _: {"127.0.0.9" if name == "rest.fal.ai" else "127.0.0.1"})
    (problem,) = problems(elsewhere)

    assert problem.about == "rest.fal.ai"
    assert "127.0.0.9" in problem.message
    assert "hosts" in problem.remedy


def test_a_public_address_is_no_server_of_ours(look):
    """109: nothing is asked there."""
    found = problems(replace(look, address=None, resolve=lambda *_: {"104.18.7.1"}))

    assert {line.about for line in found} == {*NAMES["python"], "key"}
    assert all("public address" in line.message for line in found if line.about != "key")


def test_a_sink_hole_for_the_fallback_is_as_good_as_our_address(look):
    """109."""

    def sunk(name: str, _: int) -> set[str]:
        if name in FALLBACK:
            raise socket.gaierror
        return {"127.0.0.1"}

    assert problems(replace(look, resolve=sunk)) == []


def test_a_name_without_an_address_is_a_problem(look):
    def nowhere(*_: object) -> set[str]:
        raise socket.gaierror

    assert {line.about for line in problems(replace(look, resolve=nowhere))} == {*NAMES["python"], "key"} - {*FALLBACK}


@pytest.mark.parametrize(("client", "variable"), [("python", "SSL_CERT_FILE"), ("js", "NODE_EXTRA_CA_CERTS")])
def test_without_the_authority_each_client_is_told_its_own_variable(look, client, variable):
    found = problems(replace(look, client=client, environment={"FAL_KEY": "any"}))

    assert {line.about for line in found} == {*NAMES[client], "key"}
    assert all(variable in line.remedy for line in found if line.about != "key")


def test_a_missing_authority_file_is_named(look):
    found = problems(replace(look, environment={"FAL_KEY": "any", "SSL_CERT_FILE": "/nowhere/ca.pem"}))

    assert any("/nowhere/ca.pem" in line.message for line in found)


def test_a_closed_port_is_told_apart_from_a_wrong_name(look):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = problems(replace(look, port=unused.getsockname()[1]))

    assert all("does not answer" in line.message for line in found if line.about != "key")


def test_a_missing_key_is_a_problem(look):
    (problem,) = problems(replace(look, environment={"SSL_CERT_FILE": look.environment["SSL_CERT_FILE"]}))

    assert problem.about == "key"
    assert "veraicon keys create" in problem.remedy


class Impostor(BaseHTTPRequestHandler):
    """A server of the studio's that is no Veraicon; remembers who sent it a key."""

    keys: list[str]

    def do_GET(self) -> None:
        self.keys.append(self.headers.get("Authorization", ""))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: standard error is for what fails."""


@pytest.fixture
def impostor(tls_server) -> Iterator[tuple[int, list[str]]]:
    handler = type("Here", (Impostor,), {"keys": []})
    folder = tls_server.data_dir / "tls"
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        running = threading.Thread(target=server.serve_forever)
        running.start()
        yield server.server_address[1], handler.keys
        server.shutdown()
        running.join()


def test_another_server_is_found_out_and_never_sees_the_key(look, impostor):
    port, keys = impostor
    found = problems(replace(look, port=port))

    assert all("something else" in line.message for line in found if line.about != "key")
    assert {*keys} == {""}


def test_the_settings_of_the_python_client_are_heeded(look):
    """9: with FAL_RUN_HOST fewer names matter; before 0.11 the queue is always at queue.<FAL_RUN_HOST>."""
    mine = {**look.environment, "FAL_RUN_HOST": "gpu1.lan:8443", "FAL_QUEUE_RUN_HOST": "gpu1.lan:8443/queue"}

    assert replace(look, environment=mine).names == ["gpu1.lan", "rest.fal.ai", "v3.fal.media"]
    assert "queue.gpu1.lan" in replace(look, client="python-old", environment=mine).names
    assert replace(look, client="js", environment=mine).names == list(NAMES["js"])


def test_every_name_that_a_client_calls_is_one_that_the_server_answers_for():
    """1."""
    assert {name for names in NAMES.values() for name in names} == REQUIRED
    assert set(FAL_HOSTS) >= REQUIRED


@pytest.mark.parametrize("client", NAMES)
def test_the_guide_tells_each_client_its_names_authority_and_key(client):
    text = guide.text(replace(HERE, name=None), [client])
    node = client in {"js", "js-old", "browser"}

    assert f"10.0.0.5  {' '.join(NAMES[client])}" in text
    assert f"{'NODE_EXTRA_CA_CERTS' if node else 'SSL_CERT_FILE'}=/etc/ssl/studio.pem" in text
    assert "FAL_KEY=" in text
    assert f"check.py --client {client}" in text


def test_with_a_name_of_its_own_python_needs_names_for_uploads_only():
    new, old = guide.text(HERE, ["python"]), guide.text(HERE, ["python-old"])

    assert "export FAL_RUN_HOST=gpu1.lan\nexport FAL_QUEUE_RUN_HOST=gpu1.lan/queue" in new
    assert "10.0.0.5  rest.fal.ai v3.fal.media falrun.com queue.falrun.com" in new
    assert "10.0.0.5  queue.gpu1.lan rest.alpha.fal.ai v3.fal.media" in old


@pytest.mark.parametrize("address", [None, "", "gpu1.lan", "0.0.0.0", "::"])
def test_an_address_that_clients_cannot_use_is_refused(address):
    with pytest.raises(guide.DropinError, match="--address"):
        guide.checked_address(address)


def test_records_for_a_zone_have_the_type_of_the_address():
    assert "queue.fal.run.           300 IN A 10.0.0.5" in guide.dns(HERE).splitlines()
    assert " IN AAAA fd00::5" in guide.dns(replace(HERE, address="fd00::5"))


def test_the_command_prints_lines_to_paste_and_the_check_as_one_file(tmp_path):
    hosts = veraicon(tmp_path, "dropin", "--address", "10.0.0.5", "--format", "hosts").stdout
    script = tmp_path / "check.py"
    script.write_text(veraicon(tmp_path, "dropin", "--script").stdout)
    shown = subprocess.run([sys.executable, "-I", "-S", script, "--help"], capture_output=True, text=True, check=True)

    assert hosts.split() == ["10.0.0.5", *FAL_HOSTS]
    assert "--address" in shown.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """What the check says on a machine of its own, with a hosts file, the real names and port 443."""
    command = [*way_in(), sys.executable, "-m", "tests.dropin_room", str(tmp_path_factory.mktemp("room"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", ["python", "js", "own name"])
def test_on_a_machine_with_hosts_authority_and_key_unchanged_clients_reach_the_server(said, case):
    """1, 9: port 443, the literal names, nothing but the standard library."""
    code, text = said[case]

    assert code == 0, text
    assert "key: accepted" in text
    assert "STOP" not in text


def test_on_a_machine_with_nothing_set_the_check_tells_what_to_set(said):
    code, text = said["nothing set"]

    assert code == 1
    assert "export NODE_EXTRA_CA_CERTS=" in text
    assert "export FAL_KEY=" in text


def test_a_key_that_the_server_does_not_know_is_told(said):
    """81."""
    code, text = said["wrong key"]

    assert code == 1
    assert "STOP key: refused (401)" in text
