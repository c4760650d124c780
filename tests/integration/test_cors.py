"""CORS: pages of any origin may use every route, and read every answer (fal-protocol.md §1.7)."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from server.auth import USUAL_SCOPES, key_hash, new_key
from tests.app import running_app

REQUEST = "/queue/fal-ai/pulid/requests/00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server with keys, whose one key every request carries: without any it would serve this machine's pages only."""
    with running_app(tmp_path_factory.mktemp("cors")) as (client, queue):
        key = new_key()
        queue.keys.add("id", "anna", key_hash(key), USUAL_SCOPES)
        client.headers["Authorization"] = f"Key {key}"
        yield client


PAGE = {"Origin": "https://app.example"}


@pytest.mark.parametrize(
    "url", ["/fal-ai/pulid", "/queue/fal-ai/pulid", REQUEST, REQUEST + "/cancel", "/storage/upload/initiate",
            "/files/x?ticket=y", "/files/x/1", "/files/upload", "/nothing"]
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_preflight_succeeds_on_every_route(client, url, method):
    """85: upload URLs and unknown paths included, also from public pages to this private network."""
    asked = "authorization,content-type,x-fal-target-url,x-fal-queue-priority,x-fal-object-lifecycle"
    headers = {
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": asked,
        "Access-Control-Request-Private-Network": "true",
    }
    answer = client.options(url, headers=headers | PAGE)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert method in answer.headers["access-control-allow-methods"]
    assert set(asked.split(",")) <= {n.strip() for n in answer.headers["access-control-allow-headers"].split(",")}


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", REQUEST, 404),
        ("POST", "/queue/fal-ai/unknown", 404),
        ("POST", "/fal-ai/pulid", 422),
        ("PATCH", "/fal-ai/pulid", 405),
        ("PUT", "/files/x?ticket=y", 401),
        ("POST", "/files/upload", 401),
        ("GET", "/files/x", 404),
    ],
)
def test_errors_can_be_read_by_web_pages(client, method, url, status):
    """86: origin and exposed headers come with every answer."""
    answer = client.request(method, url, json={}, headers=PAGE)

    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-fal-request-id" in answer.headers["access-control-expose-headers"]
