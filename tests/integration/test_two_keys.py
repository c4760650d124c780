"""Two keys on one server: what one of them owns does not exist for the other, on every route that there is."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.auth import USUAL_SCOPES, key_hash, new_key
from server.queue.job import Scope
from server.queue.queue import Queue
from tests.app import running_app

NOBODYS = "00000000-0000-4000-8000-000000000000"
REQUEST = "/queue/fal-ai/pulid/requests/{request}"
FOR_EVERYBODY = {
    ("GET", path)
    for path in (
        "/",
        "/api/endpoints",
        "/health",
        "/healthz",
        "/ready",
        "/readyz",
        "/metrics",
        "/.well-known/jwks.json",
        "/api/openapi/queue/openapi.json",
        "/{endpoint_id:path}/openapi.json",
    )
} | {("POST", "/tokens")}
"""Nothing of any key is behind these: descriptions, health, counts, a refusal."""

MAKES_ITS_OWN = {
    ("POST", "/queue/{endpoint_id:path}"),
    ("POST", "/{endpoint_id:path}"),
    ("POST", "/storage/upload/initiate"),
    ("POST", "/storage/upload/initiate-multipart"),
    ("POST", "/storage/auth/token"),
    ("POST", "/files/upload"),
    ("POST", "/files/upload/multipart"),
}
"""They name nothing that exists: what they make belongs to whoever asks."""

BY_UNGUESSABLE_URL = {("GET", "/files/{file_id}"), ("HEAD", "/files/{file_id}")}
"""Readable by whoever has the URL, as on fal's CDN."""

REQUESTS = {
    ("GET", "/queue/{application:path}/requests/{request_id}"): REQUEST,
    ("GET", "/queue/{application:path}/requests/{request_id}/response"): REQUEST + "/response",
    ("GET", "/queue/{application:path}/requests/{request_id}/status"): REQUEST + "/status",
    ("GET", "/queue/{application:path}/requests/{request_id}/status/stream"): REQUEST + "/status/stream",
    ("PUT", "/queue/{application:path}/requests/{request_id}/cancel"): REQUEST + "/cancel",
    ("DELETE", "/queue/{application:path}/requests/{request_id}"): REQUEST,
}
UPLOADS = {
    ("PUT", "/files/{file_id}"): "/files/{file}?ticket={ticket}",
    ("PUT", "/files/{file_id}/{number}"): "/files/{file}/1?ticket={ticket}",
    ("PUT", "/files/{file_id}/multipart/{upload_id}/{number}"): "/files/{file}/multipart/{ticket}/1",
    ("POST", "/files/{file_id}/complete"): "/files/{file}/complete?ticket={ticket}",
    ("POST", "/files/{file_id}/multipart/{upload_id}/complete"): "/files/{file}/multipart/{ticket}/complete",
}


@dataclass(frozen=True)
class Two:
    """A server with the keys of anna and ben; anna has a waiting request, and an upload begun."""

    client: TestClient
    queue: Queue
    anna: dict[str, str]
    ben: dict[str, str]
    request_id: str
    file_id: str

    def key(self, name: str, *scopes: Scope) -> dict[str, str]:
        return header(self.queue, name, scopes)

    def ask(self, way: tuple[str, str], url: str, headers: dict[str, str], **names: str) -> Any:
        body = {"parts": [{"partNumber": 1}]} if way[0] == "POST" else None
        return self.client.request(way[0], url.format(**names), json=body, headers=headers)


def header(queue: Queue, name: str, scopes: tuple[Scope, ...]) -> dict[str, str]:
    key = new_key()
    queue.keys.add(key.partition(":")[0], name, key_hash(key), scopes, another=True)
    return {"Authorization": f"Key {key}"}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, pulid_input: dict[str, Any]) -> Iterator[Two]:
    """One server for all tests that must not be able to change anything."""
    with running_app(tmp_path_factory.mktemp("two"), hold_status_ms=0) as (client, queue):
        anna, ben = header(queue, "anna", USUAL_SCOPES), header(queue, "ben", USUAL_SCOPES)
        request = client.post("/queue/fal-ai/pulid", json=pulid_input, headers=anna).json()
        begun = client.post("/storage/upload/initiate", json={"file_name": "a.png"}, headers=anna).json()
        file_id = begun["file_url"].rpartition("/")[2]
        yield Two(client, queue, anna, ben, request["request_id"], file_id)


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Method and path of everything that the application answers, but its own static files."""
    found = set[tuple[str, str]]()
    todo = list(app.routes)
    while todo:
        route = todo.pop()
        if hasattr(route, "original_router"):
            todo += route.original_router.routes
        else:
            found |= {(method, route.path) for method in getattr(route, "methods", None) or ()}
    return found


def test_every_route_has_its_place_in_this_walk(two):
    """row 82: a route that is added must say here whose data it shows."""
    known = FOR_EVERYBODY | MAKES_ITS_OWN | BY_UNGUESSABLE_URL | REQUESTS.keys() | UPLOADS.keys()

    assert routes_of(two.client.app) == known


@pytest.mark.parametrize("way", REQUESTS)
def test_another_keys_request_does_not_exist(two, way):
    """row 82: the very answer for a request that never was; and nothing happens to it."""
    theirs = two.ask(way, REQUESTS[way], two.ben, request=two.request_id)
    nobodys = two.ask(way, REQUESTS[way], two.ben, request=NOBODYS)

    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.content == nobodys.content
    assert two.queue.get(two.request_id).state == "IN_QUEUE"
    without_ids = [{n: v for n, v in each.headers.items() if n != "x-fal-request-id"} for each in (theirs, nobodys)]
    assert without_ids[0] == without_ids[1]
    assert theirs.headers.get("x-fal-request-id") != two.request_id


@pytest.mark.parametrize("way", REQUESTS)
def test_without_a_key_nothing_is_told_about_requests(two, way):
    """row 83."""
    assert two.ask(way, REQUESTS[way], {}, request=two.request_id).status_code == 401


@pytest.mark.parametrize("way", UPLOADS)
def test_another_keys_upload_cannot_be_written(two, way):
    """row 81: neither with one's own key nor with the ticket of one's own upload."""
    begun = two.client.post("/storage/upload/initiate", json={}, headers=two.ben).json()
    own_ticket = begun["upload_url"].partition("ticket=")[2]
    for ticket in (own_ticket, "x", two.ben["Authorization"].removeprefix("Key ")):
        answer = two.ask(way, UPLOADS[way], two.ben, file=two.file_id, ticket=ticket)
        assert answer.status_code == 401
        assert isinstance(answer.json()["detail"], str)
    assert two.client.get(f"/files/{two.file_id}").status_code == 404


def test_anothers_request_takes_as_long_as_none(two):
    """row 82: medians of interleaved requests; an answer that looked anything up besides would be far slower."""
    took: dict[str, list[float]] = {two.request_id: [], NOBODYS: []}
    for _ in range(60):
        for request_id, times in took.items():
            began = time.perf_counter()
            two.client.get(REQUEST.format(request=request_id), headers=two.ben)
            times.append(time.perf_counter() - began)
    theirs, nobodys = (statistics.median(times) for times in took.values())

    assert 1 / 3 < theirs / nobodys < 3


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fqueue.db", "%00", "a" * 300, "%2e%2e%2f", "x%0d%0aSet-Cookie:%20a=b", "..%5c..%5cqueue.db"],
)
def test_a_file_name_leads_nowhere_else(two, name):
    """row 81: not out of the folder, and not into the headers."""
    for method in ("GET", "HEAD", "PUT"):
        answer = two.client.request(method, f"/files/{name}", headers=two.ben)
        assert answer.status_code in {400, 401, 404}
        assert "set-cookie" not in answer.headers
        assert b"SQLite" not in answer.content


def test_a_name_that_an_upload_gives_itself_is_made_harmless(two):
    """row 81: path, NUL and line ends in `file_name`."""
    for name in ("../../etc/passwd", "a\r\nSet-Cookie: b.png", "\x00.png", "x" * 5000 + ".png"):
        body = {"file_name": name, "content_type": "image/png"}
        begun = two.client.post("/storage/upload/initiate", json=body, headers=two.ben).json()
        upload = begun["upload_url"].removeprefix("http://localhost:8000")
        assert two.client.put(upload, content=b"bytes").status_code == 200
        answer = two.client.get(begun["file_url"])
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert ".." not in begun["file_url"]
        assert len(begun["file_url"]) < 250


# Scopes

NEEDS = {
    "run": [
        ("POST", "/queue/fal-ai/pulid"),
        ("POST", "/fal-ai/pulid"),
        ("POST", "/storage/upload/initiate"),
        ("POST", "/storage/upload/initiate-multipart"),
        ("POST", "/storage/auth/token"),
        ("PUT", REQUEST + "/cancel"),
        ("DELETE", REQUEST),
    ],
    "read": [("GET", REQUEST + tail) for tail in ("", "/response", "/status", "/status/stream")],
}


@pytest.mark.parametrize(("scope", "method", "url"), [(scope, *way) for scope, ways in NEEDS.items() for way in ways])
def test_a_missing_scope_is_403_naming_it(two, scope, method, url):
    """In fal's shape; and nothing is stored or changed."""
    [other] = set(USUAL_SCOPES) - {scope}
    answer = two.client.request(method, url.format(request=two.request_id), json={}, headers=two.key("anna", other))

    assert answer.status_code == 403
    assert answer.json()["error_type"] == "forbidden"
    assert answer.headers["x-fal-error-type"] == "forbidden"
    assert f"`{scope}`" in answer.json()["detail"]
    assert f"--scope {scope}" in answer.json()["detail"]
    assert two.queue.census.take().states == {"IN_QUEUE": 1, "IN_PROGRESS": 0, "COMPLETED": 0}


def test_two_keys_of_one_name_share_its_requests(two):
    reading = two.key("anna", "read")

    assert two.client.get(REQUEST.format(request=two.request_id) + "/status", headers=reading).status_code == 202


def test_admin_may_delete_anybodys_request_but_read_none(two, pulid_input):
    operator = two.key("operator", "admin")
    made = two.client.post("/queue/fal-ai/pulid", json=pulid_input, headers=two.anna).json()
    url = REQUEST.format(request=made["request_id"])

    assert two.client.get(url, headers=operator).status_code == 403
    assert two.client.delete(url, headers=operator).json() == {"status": "DELETED"}
    assert two.client.get(url, headers=two.anna).status_code == 404


# Limits of one key


def test_a_key_that_fills_its_share_of_the_queue_is_429_and_others_are_served(tmp_path, pulid_input):
    """107: refused before anything is enqueued."""
    with running_app(tmp_path, max_queued_per_key=2) as (client, queue):
        anna, ben = header(queue, "anna", USUAL_SCOPES), header(queue, "ben", USUAL_SCOPES)
        answers = [client.post("/queue/fal-ai/pulid", json=pulid_input, headers=anna) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["error_type"] == "queue_full"
        assert "max_queued_per_key" in answers[2].json()["detail"]
        assert answers[2].headers["retry-after"]
        assert queue.census.take().states["IN_QUEUE"] == 2
        assert client.post("/queue/fal-ai/pulid", json=pulid_input, headers=ben).status_code == 200


def test_a_direct_run_beyond_the_keys_concurrency_is_429(tmp_path, pulid_input):
    """107: fal's type, and nothing is started; the queue still takes requests."""
    with running_app(tmp_path, max_concurrent_per_key=1) as (client, queue):
        anna = header(queue, "anna", USUAL_SCOPES)
        client.post("/queue/fal-ai/pulid", json=pulid_input, headers=anna)
        refused = client.post("/fal-ai/pulid", json=pulid_input, headers=anna)

        assert refused.status_code == 429
        assert refused.json()["error_type"] == refused.headers["x-fal-error-type"] == "concurrent_requests_limit"
        assert queue.census.take().states["IN_QUEUE"] == 1
        assert client.post("/queue/fal-ai/pulid", json=pulid_input, headers=anna).status_code == 200
