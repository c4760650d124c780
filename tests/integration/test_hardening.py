"""What an attacker tried: malformed values where nobody expects them, held connections, full disks, foreign paths."""

import contextlib
import errno
import json
import os
import socket
import stat
import time
from pathlib import Path

import pytest

from server.api import observe
from server.connection import MOST_HEADER_BYTES
from server.files import file_id_in
from server.outbound import Refused, parse_url
from tests.server_process import ServerProcess, veraicon

NOBODY = Path("/proc/veraicon")


def raw(server: ServerProcess, content: bytes) -> bytes:
    host, _, port = server.wire.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with contextlib.suppress(OSError):  # refused before everything was sent
            connection.sendall(content)
        return connection.recv(4096)


def test_endless_headers_are_refused_and_others_are_served(painting_server):
    answer = raw(painting_server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * (MOST_HEADER_BYTES + 1))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert painting_server.wire.get("/health", host=None).status == 200


@pytest.mark.parametrize("line", [b"nonsense", b"GET /\xff HTTP/1.1", b"PRI * HTTP/2.0"])
def test_what_is_no_http_is_refused_in_json(painting_server, line):
    """54."""
    head, _, body = raw(painting_server, line + b"\r\nHost: fal.run\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n")
    assert json.loads(body)["detail"]


def test_a_body_that_is_refused_early_is_received_to_its_end(painting_server):
    """80: a client that sends first and reads later finds the 401, and its connection in order."""
    host, _, port = painting_server.wire.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PUT /files/x?ticket=y HTTP/1.1\r\nHost: fal.run\r\nContent-Length: 1000000\r\n\r\n")
        answers = connection.recv(65536)
        connection.sendall(b"x" * 1_000_000 + b"GET /health HTTP/1.1\r\nHost: fal.run\r\n\r\n")
        while not answers.endswith(b"{}"):
            answers += (more := connection.recv(65536))
            assert more, answers
    assert answers.startswith(b"HTTP/1.1 401 ")
    assert answers.count(b"HTTP/1.1 ") == 2


def test_headers_of_usual_size_pass_on_one_connection_again_and_again(painting_server):
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 30_000 + b"\r\n\r\n"
    host, _, port = painting_server.wire.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        for _ in range(5):
            connection.sendall(request)
            answer = connection.recv(4096)
            while not answer.endswith(b"{}"):
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("origin", ["http://[", "http://]"])
def test_an_origin_that_is_no_url_is_foreign(wire, origin):
    assert wire.get("/queue/fal-ai/pulid/requests/x/status", host=None, headers={"Origin": origin}).status == 403


@pytest.mark.parametrize(
    "host", ["a" * 300, "a" * 60_000, 'evil"', "a b", "x/y", "user@x", "h:123456", "[::1", "h\xe9"]
)
def test_a_host_that_is_none_becomes_part_of_no_url(wire, pulid_input, host):
    answer = wire.post("/queue/fal-ai/pulid", pulid_input, host=host)
    assert answer.status == 400
    assert "Host" in answer.json["detail"]


def test_two_hosts_are_none(painting_server):
    answer = raw(painting_server, b"GET /health HTTP/1.1\r\nHost: fal.run\r\nHost: queue.fal.run\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("host", ["studio_1:8000", "[::1]:8000", "127.0.0.1", "render-01.studio.lan.", "localhost:"])
def test_every_host_that_can_be_is_accepted(wire, host):
    assert wire.get("/health", host=host).status == 200


@pytest.mark.parametrize("length", ["9" * 5000, "0" * 5000])
def test_a_number_of_thousands_of_digits_is_compared_and_not_read(wire, pulid_input, length):
    answer = wire.post(f"/fal-ai/pulid?fal_max_queue_length={length}", pulid_input)
    assert answer.status in {200, 429}


def test_what_is_no_url_names_no_file():
    assert file_id_in("http://[/files/x") is None


@pytest.mark.parametrize("url", ["http://example.com:0/x", "http://example.com/" + "a" * 3000])
def test_a_url_with_port_0_or_without_end_is_refused(url):
    with pytest.raises(Refused):
        parse_url(url)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_told_as_unavailable(number):
    assert observe.cannot_store(OSError(number, os.strerror(number)))
    assert not observe.cannot_store(OSError(errno.ENOENT, "gone"))


def test_what_the_server_stores_is_readable_by_its_user_alone(tmp_path):
    data_dir = tmp_path / "data"
    assert veraicon(data_dir, "keys", "create", "studio").returncode == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in [data_dir, *data_dir.rglob("*")]}
    assert modes == dict.fromkeys(modes, 0)


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["keys", "list"], {"data_dir": NOBODY}),
        (["doctor"], {"data_dir": NOBODY}),
        (["tls", "issue"], {"data_dir": NOBODY}),
        (["serve"], {"outbound": "10.0.0.0/99"}),
        (["serve"], {"files_url": "ftp://x/y"}),
        (["serve"], {"database_url": "garbage"}),
        (["serve"], {"device": "foo"}),
        (["keys", "create", "new\nline"], {}),
    ],
)
def test_a_foreseen_mistake_gets_one_clear_message_and_no_traceback(tmp_path, words, settings):
    began = time.monotonic()
    done = veraicon(settings.pop("data_dir", tmp_path), *words, **settings)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.strip()
    assert time.monotonic() - began < 30
