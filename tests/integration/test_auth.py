"""API keys, owners, and the server without keys: fal-protocol.md §5, §10 statements 81, 82, 84–86."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.auth import USUAL_SCOPES, key_hash, new_key
from server.queue.queue import Queue
from tests.app import running_app


@dataclass(frozen=True)
class Keyed:
    """A server with two keys, of anna and of ben."""

    client: TestClient
    queue: Queue
    anna: str
    ben: str

    def submit(self, authorization: str | None, body: dict[str, Any]) -> Any:
        headers = {"Authorization": authorization} if authorization is not None else {}
        return self.client.post("/queue/fal-ai/pulid", json=body, headers=headers)


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Keyed]:
    with running_app(tmp_path) as (client, queue):
        anna, ben = new_key(), new_key()
        queue.keys.add("id-a", "anna", key_hash(anna), USUAL_SCOPES)
        queue.keys.add("id-b", "ben", key_hash(ben), USUAL_SCOPES)
        yield Keyed(client, queue, anna, ben)


@pytest.mark.parametrize("scheme", ["Key", "key", "KEY", "Bearer", "bearer"])
def test_a_key_is_accepted_in_every_spelling_of_its_scheme(keyed, pulid_input, scheme):
    """81."""
    assert keyed.submit(f"{scheme} {keyed.anna}", pulid_input).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Key", "Key ", "Key wrong", "Basic YTpi", "Bearer ", "Key " + "x" * 60_000, "Key a\tb", "nonsense"],
)
def test_anything_else_is_401_with_a_detail(keyed, pulid_input, authorization):
    """81: fal's own words; nothing is queued."""
    answer = keyed.submit(authorization, pulid_input)

    assert answer.status_code == 401
    assert answer.json()["detail"] == "No user found for Key ID and Secret"
    assert keyed.queue.census.take().states["IN_QUEUE"] == 0


def test_the_key_is_asked_for_before_the_body_is_read(keyed):
    answer = keyed.client.post("/queue/fal-ai/pulid", content=b"no json")

    assert answer.status_code == 401


@pytest.mark.parametrize("way", ["", "/status", "/status/stream", "/response", "/cancel"])
def test_another_keys_request_is_not_found(keyed, pulid_input, way):
    """The same words as for a request that never was."""
    request_id = keyed.submit(f"Key {keyed.anna}", pulid_input).json()["request_id"]
    method = "PUT" if way == "/cancel" else "GET"
    ben = {"Authorization": f"Key {keyed.ben}"}

    def ask(which: str) -> Any:
        return keyed.client.request(method, f"/queue/fal-ai/pulid/requests/{which}{way}", headers=ben)

    theirs, nobodys = ask(request_id), ask("00000000-0000-4000-8000-000000000000")
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json() == nobodys.json()
    assert keyed.queue.get(request_id).state == "IN_QUEUE"


def test_a_revoked_key_is_worthless_at_once(keyed, pulid_input):
    keyed.queue.keys.revoke("anna")

    assert keyed.submit(f"Key {keyed.anna}", pulid_input).status_code == 401
    assert keyed.submit(f"Key {keyed.ben}", pulid_input).status_code == 200


def test_revoking_every_key_does_not_open_the_server(keyed, pulid_input):
    for name in ("anna", "ben"):
        keyed.queue.keys.revoke(name)

    assert keyed.submit(None, pulid_input).status_code == 401


def test_upload_and_token_need_the_key_too(keyed):
    for path in ("/storage/upload/initiate", "/storage/auth/token"):
        assert keyed.client.post(path, json={}).status_code == 401


def test_no_file_of_the_server_holds_a_key(keyed, pulid_input, tmp_path):
    keyed.submit(f"Key {keyed.anna}", pulid_input)
    secret = keyed.anna.partition(":")[2].encode()

    with sqlite3.connect(tmp_path / "queue.db") as database:
        database.execute("PRAGMA wal_checkpoint(FULL)")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not any(secret in file.read_bytes() for file in files)


def test_keys_differ_and_are_long(keyed):
    assert keyed.anna != keyed.ben
    assert len(keyed.anna.partition(":")[2]) == 64


def test_without_keys_this_machine_is_served(tmp_path, pulid_input):
    with running_app(tmp_path) as (client, _):
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "fal.run"):
            answer = client.post("/queue/fal-ai/pulid", json=pulid_input, headers={"Host": host})
            assert answer.json()["status_url"].startswith(f"http://{host}/queue/")
        dns = {"Host": "queue.fal.run"}
        assert client.post("/fal-ai/pulid", json=pulid_input, headers=dns).status_code == 200
        page = {"Origin": "http://localhost:3000"}
        assert client.post("/queue/fal-ai/pulid", json=pulid_input, headers=page).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "127.0.0.1.attacker.example"},
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.attacker.example"},
    ],
)
def test_without_keys_other_sites_and_rebound_names_are_turned_away(tmp_path, pulid_input, headers):
    with running_app(tmp_path) as (client, queue):
        answer = client.post("/queue/fal-ai/pulid", json=pulid_input, headers=headers)

        assert answer.status_code == 403
        assert "veraicon keys create" in answer.json()["detail"]
        assert queue.census.take().states["IN_QUEUE"] == 0


def test_a_preflight_from_any_origin_succeeds(wire):
    """85."""
    asked = "authorization,content-type,x-fal-target-url,x-fal-queue-priority"
    headers = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }
    answer = wire.ask("OPTIONS", "/fal-ai/pulid", headers=headers)

    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert set(asked.split(",")) <= allowed


def test_the_request_id_may_be_read_by_web_pages(wire, pulid_input):
    """86: also on errors."""
    page = {"Origin": "http://localhost:3000"}
    for body in (pulid_input, {"prompt": 1}):
        answer = wire.post("/fal-ai/pulid", body, host="fal.run", headers=page)
        exposed = answer.headers["access-control-expose-headers"].lower()
        assert answer.headers["x-fal-request-id"]
        assert "x-fal-request-id" in exposed
        assert "x-fal-error-type" in exposed


PROXY = "/api/fal/proxy"


@pytest.mark.parametrize(
    "target",
    [None, "", "https://example.com/fal-ai/pulid", "http://fal.run/fal-ai/pulid", "https://fal.run.evil.example/x", "x",
     "https://fal.run:444/fal-ai/pulid", "https://user@fal.run/fal-ai/pulid", "https://[::1"],
)  # fmt: skip
def test_the_proxy_refuses_what_is_not_fals(wire, target):
    """82."""
    answer = wire.post(PROXY, {}, host=None, headers={} if target is None else {"x-fal-target-url": target})

    assert answer.status == 400
    assert answer.body == b"Invalid request"


def test_the_proxy_answers_as_the_target_would(wire, pulid_input):
    """82, 83: POST, GET, PUT and the event stream, with URLs that a browser behind the proxy can open."""

    def through(method: str, url: str, body: Any = None) -> Any:
        return wire.ask(method, PROXY, body, host=None, headers={"x-fal-target-url": url})

    queued = through("POST", "https://queue.fal.run/fal-ai/pulid", pulid_input).json
    base = f"https://queue.fal.run/fal-ai/pulid/requests/{queued['request_id']}"
    stream = through("GET", f"{base}/status/stream?logs=1")
    result = through("GET", base)

    assert queued["status_url"].startswith(f"http://{wire.address}/queue/")
    assert stream.content_type == "text/event-stream"
    assert b'"COMPLETED"' in stream.body
    assert result.status == 200
    assert wire.follow(result.json["images"][0]["url"]).status == 200
    assert through("PUT", f"{base}/cancel").json == {"status": "ALREADY_COMPLETED"}


def test_the_target_header_means_nothing_on_other_paths(wire, pulid_input):
    """84: fal's official proxy forwards it."""
    headers = {"x-fal-target-url": "https://queue.fal.run/fal-ai/instantid/lcm"}
    answer = wire.post("/fal-ai/pulid", pulid_input, headers=headers)

    assert answer.status == 200
    assert "/fal-ai/pulid/" in answer.json["status_url"]
