"""API keys, on the wire: fal-protocol.md §5, §10 statement 81; and who may listen without keys."""

import json
import socket

import pytest

from tests.conftest import PUBLISHED
from tests.server_process import ServerProcess, veraicon
from tests.wire import QUEUE, RUN

WRONG = [
    None,
    "",
    "Key",
    "Key ",
    "Key wrong",
    "Bearer wrong",
    "Basic d3Jvbmc=",
    "Key " + "x" * 20_000,
    "Key \x80\xff",
    "nonsense",
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """The folder of a server, and the keys of two users, made before it starts."""
    folder = tmp_path_factory.mktemp("auth")
    made = {name: veraicon(folder, "keys", "create", name) for name in ("anna", "bert")}
    assert all(each.returncode == 0 for each in made.values()), made
    return folder, {name: each.stdout.split()[-1] for name, each in made.items()}


@pytest.fixture(scope="module")
def guarded(keys):
    folder, _ = keys
    with ServerProcess(folder, catalog=PUBLISHED) as server:
        yield server


@pytest.fixture(scope="module")
def anna(keys):
    return {"Authorization": f"Key {keys[1]['anna']}"}


@pytest.fixture(scope="module")
def bert(keys):
    return {"Authorization": f"Key {keys[1]['bert']}"}


@pytest.mark.parametrize("scheme", ["Key", "key", "KEY", "Bearer", "bearer"])
@pytest.mark.parametrize("host", [QUEUE, RUN])
def test_every_way_to_present_a_key_is_accepted(guarded, keys, pulid_input, scheme, host):
    """81."""
    headers = {"Authorization": f"{scheme} {keys[1]['anna']}"}

    assert guarded.wire.post("/fal-ai/pulid", pulid_input, host=host, headers=headers).status == 200


@pytest.mark.parametrize("authorization", WRONG)
@pytest.mark.parametrize("host", [QUEUE, RUN, "rest.fal.ai"])
def test_a_missing_or_wrong_key_is_401_with_a_detail(guarded, pulid_input, authorization, host):
    """81: row 83."""
    headers = {} if authorization is None else {"Authorization": authorization}
    path = "/storage/upload/initiate" if host == "rest.fal.ai" else "/fal-ai/pulid"
    answer = guarded.wire.post(path, pulid_input, host=host, headers=headers)

    assert answer.status == 401
    assert answer.content_type == "application/json"
    assert isinstance(answer.json["detail"], str)
    assert answer.json["detail"]
    assert authorization is None or len(authorization) < 10 or authorization not in answer.body.decode()


def test_a_key_of_a_megabyte_is_refused_and_the_next_request_is_served(guarded, anna, pulid_input):
    """81: row 83, and never in the log."""
    refused = guarded.wire.post("/fal-ai/pulid", pulid_input, headers={"Authorization": "Key " + "seKret" * 170_000})

    assert refused.status in {400, 401, 431}
    assert "seKret" not in refused.body.decode()
    assert "seKret" not in guarded.log
    assert guarded.wire.post("/fal-ai/pulid", pulid_input, headers=anna).status == 200


def test_a_line_end_in_a_key_makes_no_second_header(guarded, anna):
    """81: row 83: sent byte by byte, since no client library would."""
    with socket.create_connection(guarded.wire.address.split(":"), timeout=30) as line:
        key = anna["Authorization"].encode()
        line.sendall(
            b"GET /fal-ai/pulid/requests/x HTTP/1.1\r\nHost: queue.fal.run\r\nConnection: close\r\n"
            b"Authorization: Key wrong\rAuthorization: " + key + b"\r\n\r\n"
        )
        answer = b"".join(iter(lambda: line.recv(65536), b""))

    assert answer.split(b" ", 2)[1] in {b"400", b"401"}
    assert key not in answer


@pytest.mark.parametrize("tail", ["", "/status", "/status/stream", "/response"])
def test_following_a_request_needs_a_key(guarded, anna, pulid_input, tail):
    """81."""
    request = guarded.wire.submit("fal-ai/pulid", pulid_input, **anna)

    assert guarded.wire.follow(request["response_url"] + tail).status == 401
    assert guarded.wire.follow(request["cancel_url"], "PUT").status == 401


def test_a_request_belongs_to_its_key(guarded, anna, bert, pulid_input):
    """§5: to others it does not exist."""
    wire = guarded.wire
    request = wire.submit("fal-ai/pulid", pulid_input, **anna)

    for tail in ("", "/status", "/status/stream", "/response"):
        assert wire.follow(request["response_url"] + tail, headers=bert).status == 404
    cancelled = wire.follow(request["cancel_url"], "PUT", headers=bert)
    assert (cancelled.status, cancelled.json["status"]) == (404, "NOT_FOUND")
    assert wire.follow(request["status_url"], headers=anna).status in {200, 202}


def test_a_key_made_while_the_server_runs_counts_at_once_and_a_revoked_one_no_more(guarded, keys, pulid_input):
    """81: row 83."""
    made = veraicon(keys[0], "keys", "create", "carl")
    headers = {"Authorization": f"Key {made.stdout.split()[-1]}"}

    assert guarded.wire.post("/fal-ai/pulid", pulid_input, headers=headers).status == 200
    assert veraicon(keys[0], "keys", "revoke", "carl").returncode == 0
    assert guarded.wire.post("/fal-ai/pulid", pulid_input, headers=headers).status == 401


def test_health_needs_no_key(guarded):
    """§9: load balancers have none."""
    assert guarded.wire.get("/health", host=None).status == 200
    assert guarded.wire.get("/ready", host=None).status == 200


def test_a_key_is_shown_once_and_stored_as_a_hash_only(keys):
    """§5: neither the data folder nor the log holds it."""
    folder, made = keys
    listed = veraicon(folder, "keys", "list")

    assert "anna" in listed.stdout
    stored = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    for key in made.values():
        assert len(key) >= 32
        assert key not in listed.stdout
        assert key.encode() not in stored


def test_the_first_key_closes_a_server_that_was_open(tmp_path, pulid_input):
    """81: from then on a request without a key is 401."""
    with ServerProcess(tmp_path, "api", catalog=PUBLISHED) as server:
        assert server.wire.post("/fal-ai/pulid", pulid_input).status == 200
        made = veraicon(tmp_path, "keys", "create", "first")
        answer = server.wire.post("/fal-ai/pulid", pulid_input)

    assert made.returncode == 0
    assert answer.status == 401


@pytest.mark.parametrize("command", ["serve", "api"])
def test_an_open_address_without_keys_refuses_to_start(tmp_path, command):
    """And says what to do."""
    refused = veraicon(tmp_path, command, "--host", "0.0.0.0", catalog=PUBLISHED)

    assert refused.returncode != 0
    assert "keys create" in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr


def test_an_open_address_with_a_key_starts(tmp_path, pulid_input):
    """The refusal above is about keys, not about the address."""
    key = veraicon(tmp_path, "keys", "create", "only").stdout.split()[-1]
    with ServerProcess(tmp_path, "api", "--host", "0.0.0.0", catalog=PUBLISHED) as server:
        assert json.loads((tmp_path / "server.json").read_text()).keys() >= {"url", "pid"}
        answer = server.wire.post("/fal-ai/pulid", pulid_input, headers={"Authorization": f"Key {key}"})

    assert answer.status == 200
