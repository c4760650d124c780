"""Host names, TLS, CORS and redirects, on the wire: fal-protocol.md §1, §10 statements 1, 3, 8, 78, 84–86."""

import socket
import ssl

import pytest

from tests.wire import QUEUE, RUN

HOSTS = [
    "fal.run",
    "queue.fal.run",
    "rest.fal.ai",
    "rest.alpha.fal.ai",
    "v3.fal.media",
    "falrun.com",
    "queue.falrun.com",
    "ws.fal.run",
]
BROWSER = {"Origin": "https://studio.example"}
ASKED = "authorization, content-type, x-fal-target-url, x-fal-queue-priority"
EXPOSED = {"x-fal-request-id", "x-fal-request-timeout-type", "x-fal-error-type", "x-fal-retryable"}


@pytest.mark.parametrize("host", [*HOSTS, "localhost"])
def test_the_certificate_is_valid_for_every_name_of_fal(tls_server, host):
    """1: checked as clients do, against the authority in the data folder."""
    address, _, port = tls_server.wire.address.rpartition(":")
    trust = ssl.create_default_context(cafile=tls_server.ca_file)
    with socket.create_connection((address, int(port))) as plain, trust.wrap_socket(plain, server_hostname=host) as tls:
        assert tls.getpeercert()


def test_an_unknown_authority_is_not_trusted(tls_server):
    """1: the test above can fail."""
    address, _, port = tls_server.wire.address.rpartition(":")
    trust = ssl.create_default_context()
    with socket.create_connection((address, int(port))) as plain, pytest.raises(ssl.SSLCertVerificationError):
        trust.wrap_socket(plain, server_hostname=QUEUE)


def test_urls_are_https_where_the_client_came_by_https(tls_server, pulid_input):
    """§1.6."""
    wire = tls_server.wire
    request = wire.submit("fal-ai/pulid", pulid_input)

    assert request["status_url"].startswith(f"https://{QUEUE}/fal-ai/pulid/requests/")
    image = wire.finish(request).json["images"][0]
    assert image["url"].startswith("https://")
    assert wire.follow(image["url"]).status == 200


@pytest.mark.parametrize("host", ["queue.fal.run", "queue.falrun.com", "QUEUE.FAL.RUN", "queue.fal.run:443"])
def test_queue_names_enqueue(wire, host, pulid_input):
    """1, 3."""
    answer = wire.post("/fal-ai/pulid", pulid_input, host=host)

    assert answer.json["status"] == "IN_QUEUE"
    assert wire.follow(answer.json["status_url"]).status in {200, 202}


@pytest.mark.parametrize("host", ["fal.run", "falrun.com", "Fal.Run", "fal.run:443"])
def test_run_names_run(wire, host, pulid_input):
    """1, 3."""
    assert set(wire.post("/fal-ai/pulid", pulid_input, host=host).json) == {"images", "seed"}


@pytest.mark.parametrize(
    ("method", "path", "host"),
    [
        ("POST", "/fal-ai/pulid", QUEUE),
        ("POST", "/fal-ai/pulid/", QUEUE),
        ("POST", "/fal-ai/pulid", RUN),
        ("POST", "/fal-ai/pulid/", RUN),
        ("POST", "//fal-ai/pulid", RUN),
        ("GET", "/fal-ai/pulid/requests/x", QUEUE),
        ("GET", "/fal-ai/pulid/requests/x/", QUEUE),
        ("GET", "/fal-ai/pulid/requests/x/status/", QUEUE),
        ("GET", "/fal-ai/pulid/requests/x/status/stream/", QUEUE),
        ("PUT", "/fal-ai/pulid/requests/x/cancel/", QUEUE),
        ("POST", "/queue/fal-ai/pulid/", None),
        ("GET", "/queue/fal-ai/pulid/requests/x/status/", None),
        ("POST", "/tokens/", "rest.fal.ai"),
        ("POST", "/tokens", "rest.fal.ai"),
        ("GET", "/health", None),
        ("GET", "/health/", None),
        ("GET", "/ready/", None),
        ("GET", "/files/x/", "v3.fal.media"),
    ],
)
def test_no_route_answers_with_a_redirect(wire, method, path, host):
    """8: fal's asynchronous client does not follow one."""
    answer = wire.ask(method, path, {} if method == "POST" else None, host=host)

    assert not 300 <= answer.status < 400
    assert "location" not in answer.headers


@pytest.mark.parametrize("host", [QUEUE, RUN])
def test_a_request_that_came_through_fals_proxy_is_served_normally(wire, host, pulid_input):
    """84: the target header is for proxies, not for us."""
    headers = {
        "x-fal-target-url": "https://queue.fal.run/fal-ai/elsewhere",
        "x-fal-client-proxy": "@fal-ai/server-proxy/express",
    }
    answer = wire.post("/fal-ai/pulid", pulid_input, host=host, headers=headers)

    assert answer.status == 200
    assert set(answer.json) >= ({"request_id"} if host == QUEUE else {"images", "seed"})


@pytest.mark.parametrize(
    ("path", "host", "method"),
    [
        ("/fal-ai/pulid", QUEUE, "POST"),
        ("/fal-ai/instantid/lcm", RUN, "POST"),
        ("/fal-ai/pulid/requests/x/status", QUEUE, "GET"),
        ("/fal-ai/pulid/requests/x/cancel", QUEUE, "PUT"),
        ("/queue/fal-ai/pulid", None, "POST"),
        ("/storage/upload/initiate", "rest.fal.ai", "POST"),
    ],
)
def test_a_browsers_preflight_succeeds(wire, path, host, method):
    """85, §1.7."""
    headers = BROWSER | {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": ASKED}
    answer = wire.ask("OPTIONS", path, host=host, headers=headers)

    allowed = (answer.headers["access-control-allow-headers"] or "").lower()
    assert answer.status in {200, 204}
    assert answer.headers["access-control-allow-origin"] in {"*", BROWSER["Origin"]}
    assert method in answer.headers["access-control-allow-methods"]
    assert all(name in allowed for name in ASKED.split(", "))


def test_a_browser_may_read_the_request_id_of_answers_and_of_errors(wire, pulid_input):
    """0.6, 86."""
    good = wire.post("/fal-ai/pulid", pulid_input, host=RUN, headers=BROWSER)
    bad = wire.post("/fal-ai/pulid", {}, host=RUN, headers=BROWSER)
    none = wire.post("/fal-ai/nothing", {}, host=RUN, headers=BROWSER)

    for answer in (good, bad, none):
        exposed = {name.strip().lower() for name in (answer.headers["access-control-expose-headers"] or "").split(",")}
        assert answer.headers["access-control-allow-origin"] in {"*", BROWSER["Origin"]}
        assert exposed >= EXPOSED
    assert good.headers["x-fal-request-id"]


def test_a_browser_may_read_pictures(wire, pulid_input):
    """§1.7, §4.1."""
    image = wire.post("/fal-ai/pulid", pulid_input, host=RUN).json["images"][0]
    answer = wire.follow(image["url"], headers=BROWSER)

    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] in {"*", BROWSER["Origin"]}


def test_pipelined_requests_are_answered_in_http_1_1(wire):
    """0.8: status line with its reason phrase, on one connection."""
    host, _, port = wire.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: fal.run\r\n\r\n" * 2)
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 2:
            received += raw.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
