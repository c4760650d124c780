"""Webhooks: what is sent, how it is signed, and what happens when nobody wants it (fal-protocol.md §7)."""

import base64
import contextlib
import hashlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from server import slots, webhooks
from server.settings import Settings
from server.webhooks import Sender, WebhookRefused, check_url
from tests.app import running_app
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.worker_process import Site, eventually

OUTPUT = {"images": [{"url": "file:" + "0" * 32 + "_a.png"}], "seed": 4}


@dataclass
class Listener:
    """A client's server; answers with `statuses` one after another, the last one for ever."""

    statuses: list[int]
    url: str = ""
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def listener() -> Iterator[Listener]:
    client = Listener([200])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            client.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(client.statuses.pop(0) if len(client.statuses) > 1 else client.statuses[0])
            self.send_header("Location", f"{client.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    client.url = f"http://127.0.0.1:{server.server_port}/hook"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield client
    server.shutdown()
    server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.queue.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outbox is looked at more often, so that ten tries take no ten seconds."""
    monkeypatch.setattr(webhooks, "LOOK_EVERY_S", 0.05)


@contextmanager
def sending(site: Site) -> Iterator[Sender]:
    settings = Settings(data_dir=site.folder, **site.settings)
    sender, stop = Sender(site.queue, settings), threading.Event()
    thread = threading.Thread(target=sender.run, args=(stop,))
    thread.start()
    try:
        yield sender
    finally:
        stop.set()
        thread.join()


def finished(site: Site, url: str, status: int = 200, body: dict | None = None, owner: str = "studio") -> str:
    """The id of a finished request whose webhook waits in the outbox."""
    outcome = (status, OUTPUT if body is None else body, None if status == 200 else "missing")
    terms = {"owner": owner, "base_url": "https://queue.fal.run", "webhook": url}
    return site.queue.put(BLUE_SQUARE.id, {"prompt": "x"}, finished=outcome, **terms).id


def settled(site: Site) -> bool:
    """Whether nothing waits in the outbox: only then may an old request be pruned."""
    return site.queue.prune(-1, print) > 0


def verify(headers: dict[str, str], body: bytes, jwks: dict) -> None:
    """What fal's documentation tells a receiver to do, with each published key."""
    told = [headers[f"x-fal-webhook-{name}"] for name in ("request-id", "user-id", "timestamp")]
    message = "\n".join([*told, hashlib.sha256(body).hexdigest()]).encode()
    signature = bytes.fromhex(headers["x-fal-webhook-signature"])
    for key in jwks["keys"]:
        padded = key["x"] + "=" * (-len(key["x"]) % 4)
        Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(padded)).verify(signature, message)


def test_success_is_told_with_the_output_and_real_urls(site, listener):
    request_id = finished(site, listener.url)
    with sending(site):
        eventually(lambda: settled(site))
    [(headers, body)] = listener.heard
    told = json.loads(body)
    url = f"https://queue.fal.run/files/{'0' * 32}_a.png"
    ids = {"request_id": request_id, "gateway_request_id": request_id}
    assert told == {**ids, "status": "OK", "payload": {"images": [{"url": url}], "seed": 4}}
    assert headers["content-type"] == "application/json"


def test_failure_is_told_with_its_status(site, listener):
    finished(site, listener.url, 422, {"detail": []})
    with sending(site):
        eventually(lambda: settled(site))
    told = json.loads(listener.heard[0][1])
    assert (told["status"], told["error"], told["payload"]) == ("ERROR", "Invalid status code: 422", {"detail": []})


def test_the_signature_is_verified_by_fals_recipe_and_breaks_with_the_body(site, listener):
    request_id = finished(site, listener.url, owner="Zoë ")
    with sending(site) as sender:
        eventually(lambda: settled(site))
        jwks = sender.signer.jwks()
    [(headers, body)] = listener.heard
    verify(headers, body, jwks)
    assert (headers["x-fal-webhook-request-id"], headers["x-fal-webhook-user-id"]) == (request_id, "Zo%C3%AB%20")
    assert abs(int(headers["x-fal-webhook-timestamp"]) - time.time()) < 60
    with pytest.raises(InvalidSignature):
        verify(headers, body.replace(b'"seed":4', b'"seed":5'), jwks)


def test_a_failing_receiver_is_told_again_with_a_fresh_signature_over_the_same_body(site, listener, monkeypatch):
    """91: whatever is no 2xx."""
    monkeypatch.setattr(webhooks, "RETRY_DELAYS_S", (1.1, 0.1))
    listener.statuses = [500, 404, 204]
    finished(site, listener.url)
    with sending(site) as sender:
        eventually(lambda: settled(site))
        jwks = sender.signer.jwks()
    (first, body), (second, body_again), (third, last_body) = listener.heard
    assert body == body_again == last_body
    assert first["x-fal-webhook-timestamp"] != second["x-fal-webhook-timestamp"]
    for headers in (first, second, third):
        verify(headers, body, jwks)


def test_the_tenth_try_delivers_and_is_the_last(site, listener, monkeypatch):
    """91: row 44: nine failures and a success; each try is in the operator's log."""
    monkeypatch.setattr(webhooks, "RETRY_DELAYS_S", (0.02,) * len(webhooks.RETRY_DELAYS_S))
    listener.statuses = [500] * 9 + [200]
    request_id = finished(site, listener.url)
    with sending(site):
        eventually(lambda: site.queue.deliveries.sendings()[0].state == "delivered")
    [sending_] = site.queue.deliveries.sendings(job_id=request_id)
    tries = site.queue.deliveries.of(request_id)
    assert len(listener.heard) == sending_.tries == 10
    assert [(one.status, one.reason) for one in tries] == [(500, None)] * 9 + [(200, None)]
    assert all(0 <= one.duration_s < 15 for one in tries)
    assert site.queue.deliveries.sendings(failed=True) == []


def test_after_the_last_retry_it_is_given_up(site, listener, monkeypatch):
    """91: until an operator sends it again, with all its retries."""
    monkeypatch.setattr(webhooks, "RETRY_DELAYS_S", (0.05,) * 3)
    listener.statuses = [500]
    finished(site, listener.url)
    with sending(site):
        eventually(lambda: settled(site))
    assert len(listener.heard) == 4


def test_a_replay_has_all_its_retries(site, listener, monkeypatch):
    monkeypatch.setattr(webhooks, "RETRY_DELAYS_S", (0.05,))
    listener.statuses = [500]
    request_id = finished(site, listener.url)
    with sending(site):
        eventually(lambda: [one.state for one in site.queue.deliveries.sendings(failed=True)] == ["given up"])
        assert site.queue.deliveries.replay(request_id)
        eventually(lambda: len(listener.heard) == 4)
    assert len({body for _, body in listener.heard}) == 1


def test_ten_retries_fit_into_two_hours():
    """91: the schedule itself; each pause is at least as long as the one before."""
    assert len(webhooks.RETRY_DELAYS_S) >= 10
    assert sum(webhooks.RETRY_DELAYS_S) <= 7200
    assert list(webhooks.RETRY_DELAYS_S) == sorted(webhooks.RETRY_DELAYS_S)


def test_a_redirect_is_not_followed_and_final(site, listener):
    """92: row 46: wherever it leads."""
    listener.statuses = [302]
    finished(site, listener.url)
    with sending(site):
        eventually(lambda: settled(site))
    assert len(listener.heard) == 1


def test_a_receiver_that_hangs_is_cut_and_holds_up_nobody(site, listener, monkeypatch):
    """The fault of row 45: it is cut after 15 s at first, 120 s later."""
    assert (webhooks.FIRST_TIMEOUT_S, webhooks.LATER_TIMEOUT_S) == (15, 120)
    monkeypatch.setattr(webhooks, "FIRST_TIMEOUT_S", 1)
    monkeypatch.setattr(webhooks, "RETRY_DELAYS_S", ())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as silent:
        finished(site, f"http://127.0.0.1:{silent.server_port}/")  # it accepts, and never answers
        finished(site, listener.url)
        with sending(site):
            eventually(lambda: listener.heard, limit_s=5)
            eventually(lambda: settled(site))
            eventually(lambda: settled(site), limit_s=10)


def test_a_receiver_that_is_down_is_tried_again(site, listener, monkeypatch):
    monkeypatch.setattr(webhooks, "RETRY_DELAYS_S", (0.1,))
    finished(site, "http://127.0.0.1:9/")
    with sending(site):
        eventually(lambda: settled(site))


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://10.1.2.3/x", "file:///etc/passwd", "http://u:p@8.8.8.8/"]
)
def test_a_webhook_to_where_we_may_not_go_is_refused_at_submit(tmp_path, url):
    with pytest.raises(WebhookRefused):
        check_url(url, Settings(data_dir=tmp_path))


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://[::1]:9/x", "http://169.254.169.254/latest/"])
def test_a_webhook_to_this_machine_or_its_cloud_is_refused_and_nothing_is_queued(tmp_path, url):
    """The fault of row 47: 422 at submit."""
    with running_app(tmp_path) as (client, queue):
        answer = client.post("/queue/fal-ai/pulid", json={}, params={"fal_webhook": url})
        assert queue.census.take().states == {"IN_QUEUE": 0, "IN_PROGRESS": 0, "COMPLETED": 0}
    assert (answer.status_code, answer.json()["error_type"]) == (422, "bad_request")
    assert "fal_webhook" in answer.json()["detail"]


def test_a_webhook_that_has_become_private_since_is_not_sent(site, listener, monkeypatch):
    monkeypatch.setattr(webhooks, "RETRY_DELAYS_S", ())
    site.settings["outbound"] = "public"
    finished(site, listener.url)
    with sending(site):
        eventually(lambda: settled(site))
    assert listener.heard == []


def test_a_webhook_survives_the_process_that_should_have_sent_it(site, listener):
    with site.worker() as worker:
        terms = {"owner": "me", "base_url": "http://host", "webhook": listener.url}
        job = site.done(site.queue.put(BLUE_SQUARE.id, {"prompt": "x"}, **terms))
        worker.kill()
    with sending(site):
        eventually(lambda: listener.heard)
    assert json.loads(listener.heard[0][1])["request_id"] == job.id


def test_a_result_that_is_no_json_is_told_as_such(site, listener):
    """The fault of row 50: the payload is null, and the reason is said."""
    finished(site, listener.url, 200, {"images": [], "seed": float("nan")})
    with sending(site):
        eventually(lambda: listener.heard)
    told = json.loads(listener.heard[0][1])
    assert (told["status"], told["payload"]) == ("OK", None)
    assert told["payload_error"].startswith("Response payload is not JSON serializable.")


def test_a_receiver_that_hangs_holds_up_only_its_own_webhooks(site, listener):
    """The fault of row 45: at most four of its webhooks are in hand, however many are due."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)  # it accepts, and never answers
    for _ in range(40):
        finished(site, f"http://127.0.0.1:{silent.getsockname()[1]}/")
    finished(site, listener.url)
    with sending(site), silent:
        eventually(lambda: listener.heard, limit_s=webhooks.FIRST_TIMEOUT_S - 1)
        callers = accepted(silent)
        for caller in callers:
            caller.close()
    assert 0 < len(callers) <= slots.AT_ONCE_PER_HOST


def accepted(listener: socket.socket) -> list[socket.socket]:
    """Everybody who has called so far."""
    listener.setblocking(False)
    callers = []
    with contextlib.suppress(BlockingIOError):
        while True:
            callers.append(listener.accept()[0])
    return callers
