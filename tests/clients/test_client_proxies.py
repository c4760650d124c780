"""Pages that know no key: fal's official Express proxy in front of the server, and the server's own proxy route."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.client import CLIENTS, clean_environment
from tests.clients.matrix import feature
from tests.clients.names import Names
from tests.wire import Wire

PICTURE = Path(__file__).parents[1] / "data" / "coffee.png"
PROXY = CLIENTS[0]
"""Its environment holds the proxy package, too."""


@pytest.fixture(scope="module")
def express(tls_server, tmp_path_factory) -> Iterator[tuple[str, Names]]:
    """The address of an Express application with fal's proxy, and the names that it asks for."""
    PROXY.require()
    names = Names(tls_server.wire.address, tls_server.ca_file, tmp_path_factory.mktemp("express"))
    process = subprocess.Popen(
        PROXY.program("proxy"), env=clean_environment() | names.environment, stdin=-1, stdout=-1, text=True
    )
    with process:
        yield process.stdout.readline().strip(), names
        process.stdin.close()


@pytest.fixture
def picture_url(tls_server) -> str:
    """A picture that the server has already: official proxies refuse some clients' uploads (fal-protocol.md §6)."""
    token = tls_server.wire.post("/storage/auth/token", {}, host="rest.fal.ai").json
    headers = {"Authorization": f"Bearer {token['token']}", "Content-Type": "image/png"}
    answer = tls_server.wire.post("/files/upload", PICTURE.read_bytes(), host="v3.fal.media", headers=headers)
    return answer.json["access_url"]


def subscribe(client, names: Names, proxy_url: str, picture_url: str) -> dict:
    """As a page does, which has no key, by streaming where the client can."""
    mode = {} if "subscribe, streaming" in client.lacks else {"mode": "streaming"}
    given = {"endpoint": "fal-ai/instantid/lcm", "input": {"face_image_url": picture_url, "prompt": "man"}}
    keyless = {name: value for name, value in names.environment.items() if name != "FAL_KEY"}
    return client.run("proxied", {**given, **mode, "proxyUrl": proxy_url}, keyless)


@feature("official proxy")
def test_a_page_behind_the_official_proxy_gets_its_picture(client, names, express, picture_url):
    """38, 82, 83, 84: the proxy overwrites Accept, and forwards the target header to ordinary paths."""
    proxy_url, asked_by_proxy = express
    answer = subscribe(client, names, proxy_url, picture_url)

    assert (answer["data"]["image"]["width"], answer["data"]["image"]["height"]) == (600, 400)
    assert answer["states"][-1] == "COMPLETED"
    assert asked_by_proxy.asked == {"queue.fal.run"}
    assert names.asked <= {"localhost"}


@feature("this server's proxy route")
def test_a_page_may_use_the_servers_own_proxy_route(client, names, tls_server, picture_url):
    """82, 83."""
    answer = subscribe(client, names, f"{tls_server.url}/api/fal/proxy", picture_url)

    assert (answer["data"]["image"]["width"], answer["data"]["image"]["height"]) == (600, 400)
    assert answer["states"][-1] == "COMPLETED"
    assert not names.asked


@pytest.mark.parametrize("target", [None, "https://example.org/fal-ai/pulid"])
def test_the_official_proxy_and_the_servers_own_route_refuse_the_same(express, tls_server, target):
    """82: no target, or a foreign one."""
    headers = {} if target is None else {"x-fal-target-url": target}
    own = tls_server.wire.post("/api/fal/proxy", {}, headers=headers)

    official = Wire(express[0].split("/")[2]).post("/api/fal/proxy", {}, headers=headers)
    assert own.status == official.status == 400
