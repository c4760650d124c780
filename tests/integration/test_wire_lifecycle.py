"""How long files are kept, who may read them, and what uploads may weigh: fal-protocol.md §4.1, statement 79."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from server.auth import key_hash, new_key
from server.caretaker import sweep
from server.files import FileStore
from server.inputs import FileDownloadError
from server.png import encode
from server.queue import ledger
from server.queue.queue import Queue
from server.settings import read_settings
from server.worker.assignment import Assignment
from server.worker.stages import Stages
from tests.app import running_app
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.pipelines.catalog import CATALOG as CHARACTERS
from tests.server_process import ServerProcess
from tests.wire import RUN, Answer, Wire
from tests.wire_checks import assert_is_request_error
from tests.worker_process import eventually

REST, CDN = "rest.fal.ai", "v3.fal.media"
UPLOAD, PREFERENCE = "X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference"
PNG = {"content_type": "image/png", "file_name": "face.png"}
TYPED = {"Content-Type": "image/png"}
SECOND = json.dumps({"expiration_duration_seconds": 1})
BAD = ["", "3600", "[]", "{", '{"expiration_duration_seconds": "1h"}', '{"expiration_duration_seconds": 0}']
BAD += ['{"expiration_duration_seconds": true}', '{"expiration_duration_seconds": 1e999}', '{"initial_acl": 1}']
BAD += ['{"initial_acl": {"default": "deny"}}', '{"initial_acl": {"rules": [{"decision": "allow"}]}}', "[" * 20_000]


def begin(wire: Wire, path: str = "/storage/upload/initiate", **headers: str) -> dict[str, str]:
    answer = wire.post(path, PNG, host=REST, headers={name.replace("_", "-"): text for name, text in headers.items()})
    assert answer.status == 200, answer.body
    return answer.json


def send(wire: Wire, begun: dict[str, str], content: bytes) -> Answer:
    return wire.follow(begun["upload_url"], "PUT", body=content, headers=TYPED)


def bytes_of(server: ServerProcess, url: str) -> list[Path]:
    return list((server.data_dir / "files").rglob(url.rpartition("/")[2]))


@pytest.mark.parametrize("header", [UPLOAD, PREFERENCE])
def test_an_upload_ends_when_its_client_wants_it(painting_server, header):
    """79: JavaScript's header and Python's; the URL is 404 at once, the bytes are gone soon after."""
    wire = painting_server.wire
    begun = begin(wire, **{header: SECOND})
    assert send(wire, begun, b"soon gone").status == 200
    got = wire.follow(begun["file_url"])
    assert (got.status, got.body) == (200, b"soon gone")
    assert got.headers["cache-control"].startswith("public, max-age=0")

    time.sleep(1)
    assert wire.follow(begun["file_url"]).status == 404
    assert wire.follow(begun["file_url"], "HEAD").status == 404
    eventually(lambda: not bytes_of(painting_server, begun["file_url"]))


def test_pythons_upload_ends_too(painting_server):
    """79: protocol C, whose lifecycle comes with the bytes."""
    wire = painting_server.wire
    bearer = {"Authorization": f"Bearer {wire.post('/storage/auth/token', {}, host=REST).json['token']}"}
    sent = wire.post("/files/upload", b"soon gone", host=CDN, headers={**bearer, **TYPED, UPLOAD: SECOND})
    assert wire.follow(sent.json["access_url"]).status == 200

    eventually(lambda: wire.follow(sent.json["access_url"]).status == 404)
    eventually(lambda: not bytes_of(painting_server, sent.json["access_url"]))


def test_the_results_of_a_request_end_when_its_client_wants_it(painting_server, pulid_input):
    """79: the preference of a submit is about the pictures that it makes; the result itself stays."""
    wire = painting_server.wire
    request = wire.submit("fal-ai/pulid", pulid_input, **{PREFERENCE: json.dumps({"expiration_duration_seconds": 2})})
    [image] = wire.finish(request).json["images"]
    assert wire.follow(image["url"]).status == 200

    eventually(lambda: wire.follow(image["url"]).status == 404)
    eventually(lambda: not bytes_of(painting_server, image["url"]))
    assert wire.result(request).json["images"] == [image]


@pytest.mark.parametrize("text", BAD)
def test_a_lifecycle_that_cannot_be_read_is_named(wire, pulid_input, text):
    """79: nothing is queued or begun under terms that nobody understood."""
    for path, body, host, header in (
        ("/storage/upload/initiate", PNG, REST, UPLOAD),
        ("/storage/upload/initiate-multipart", PNG, REST, PREFERENCE),
        ("/fal-ai/pulid", pulid_input, RUN, PREFERENCE),
        ("/fal-ai/pulid", pulid_input, "queue.fal.run", PREFERENCE),
    ):
        answer = wire.post(path, body, host=host, headers={header: text})
        assert_is_request_error(answer, 400, "bad_request")
        assert answer.json["detail"].startswith(header)


def test_what_fal_sends_besides_is_accepted(wire):
    """79: fal's own spelling, with rules; `never` is a duration left out."""
    acl = {"default": "allow", "rules": [{"user": "anna", "decision": "forbid"}]}
    for wish in ({"initial_acl": acl}, {"expiration_duration_seconds": 31_536_000, "initial_acl": None, "new": 1}, {}):
        begun = begin(wire, **{UPLOAD: json.dumps(wish)})
        assert send(wire, begun, b"kept").status == 200
        assert wire.follow(begun["file_url"]).status == 200


def test_an_upload_url_writes_its_file_once(wire):
    """A file is never changed, whoever has its upload URL."""
    begun = begin(wire)
    assert send(wire, begun, b"first").status == 200

    assert_is_request_error(send(wire, begun, b"second"), 409, "upload_complete")
    assert wire.follow(begun["file_url"]).body == b"first"


def test_parts_may_be_sent_again_until_the_upload_is_complete(wire):
    begun = begin(wire, "/storage/upload/initiate-multipart")
    path, _, query = begun["upload_url"].partition("?")
    for content in (b"torn", b"whole"):
        assert wire.follow(f"{path}/1?{query}", "PUT", body=content, headers=TYPED).status == 200
    done, again = (wire.follow(f"{path}/complete?{query}", "POST", body={"parts": [{"partNumber": 1}]}) for _ in "ab")
    late = wire.follow(f"{path}/1?{query}", "PUT", body=b"other", headers=TYPED)

    assert (done.status, again.status, again.json) == (200, 200, done.json)
    assert_is_request_error(late, 409, "upload_complete")
    assert wire.follow(begun["file_url"]).body == b"whole"


@contextmanager
def two_owners(folder: Path) -> Iterator[tuple[TestClient, Queue, dict[str, dict[str, str]]]]:
    """The application, its queue, and what anna and bert send to be known."""
    with running_app(folder, CHARACTERS) as (client, queue):
        keys = {name: new_key() for name in ("anna", "bert")}
        for name, key in keys.items():
            queue.keys.add(key.partition(":")[0], name, key_hash(key), ("run", "read"))
        yield client, queue, {name: {"Authorization": f"Key {key}"} for name, key in keys.items()}


def closed_file(client: TestClient, who: dict[str, str], acl: dict) -> str:
    """The URL of a picture that `who` uploads under `acl`."""
    headers = who | {UPLOAD: json.dumps({"initial_acl": acl})}
    begun = client.post("/storage/upload/initiate", json=PNG, headers=headers).json()
    picture = encode(np.zeros((8, 8, 3), np.uint8), {})
    assert client.put(begun["upload_url"], content=picture, headers=TYPED).status_code == 200
    return begun["file_url"]


@pytest.mark.parametrize(("decision", "status"), [("forbid", 403), ("hide", 404)])
def test_a_file_is_closed_to_whom_its_owner_shuts_out(tmp_path, decision, status):
    """79, the other half of the header: nobody else reads it, or paints from it."""
    with two_owners(tmp_path) as (client, queue, keys):
        url = closed_file(client, keys["anna"], {"default": decision, "rules": []})
        own = client.get(url, headers=keys["anna"])
        stages = Stages(read_settings(data_dir=tmp_path), queue, FileStore(f"file://{tmp_path}/files"), {})
        put = partial(queue.put, BLUE_SQUARE.id, {"prompt": "x", "image_url": url}, base_url="http://host")

        assert (own.status_code, own.headers["cache-control"].split(",")[0]) == (200, "private")
        assert [client.get(url, headers=who).status_code for who in ({}, keys["bert"])] == [status, status]
        with pytest.raises(FileDownloadError) as refused:
            stages.fetch(Assignment(put(owner="bert"), BLUE_SQUARE))
        assert refused.value.loc == ("image_url",)
        annas = Assignment(put(owner="anna"), BLUE_SQUARE)
        stages.fetch(annas)
        assert [image.size for image in annas.images] == [(8, 8)]


def test_a_rule_opens_a_closed_file_to_one_owner(tmp_path):
    with two_owners(tmp_path) as (client, _, keys):
        rules = [{"user": "bert", "decision": "allow"}]
        url = closed_file(client, keys["anna"], {"default": "hide", "rules": rules})

        assert client.get(url).status_code == 404
        assert client.get(url, headers=keys["bert"]).status_code == 200


def test_a_key_may_not_upload_more_than_its_share(tmp_path):
    """The answer names the limit; what has ended makes room again."""
    with running_app(tmp_path, max_upload_total_mb=1) as (client, _):

        def upload(size: int, **headers: str) -> tuple[int, str]:
            begun = client.post("/storage/upload/initiate", json=PNG, headers=headers)
            put = client.put(begun.json()["upload_url"], content=b"x" * size)
            return put.status_code, put.text

        assert upload(700_000, **{UPLOAD: SECOND})[0] == 200
        status, text = upload(700_000)
        assert (status, "1 MB" in text, "max_upload_total_mb" in text) == (413, True, True)
        assert upload(300_000)[0] == 200
        eventually(lambda: upload(700_000)[0] == 200, limit_s=10)
        assert upload(1)[0] == 200


def test_the_parts_of_unfinished_uploads_count_against_the_share(tmp_path):
    """Otherwise many uploads that nobody completes could fill the disk; one that is completed counts once."""
    with running_app(tmp_path, max_upload_total_mb=1) as (client, _):

        def part() -> tuple[str, str, int]:
            url = client.post("/storage/upload/initiate-multipart", json=PNG).json()["upload_url"]
            path, _, query = url.partition("?")
            return path, query, client.put(f"{path}/1?{query}", content=b"x" * 600_000).status_code

        path, query, first = part()
        assert (first, part()[2]) == (200, 413)
        assert client.post(f"{path}/complete?{query}", json={"parts": [{"partNumber": 1}]}).status_code == 200
        assert part()[2] == 413


def test_the_parts_of_one_upload_may_not_exceed_a_files_limit(tmp_path):
    """Otherwise an upload that nobody completes could fill the disk."""
    with running_app(tmp_path, max_upload_mb=1) as (client, _):
        url = client.post("/storage/upload/initiate-multipart", json=PNG).json()["upload_url"]
        path, _, query = url.partition("?")
        answers = [client.put(f"{path}/{number}?{query}", content=b"x" * 600_000) for number in (1, 1, 2)]

    assert [answer.status_code for answer in answers] == [200, 200, 413]


def test_an_upload_that_nobody_finishes_is_swept_with_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "UNFINISHED_S", 0.2)
    files = FileStore(f"file://{tmp_path}/files")
    with running_app(tmp_path) as (client, queue):
        url = client.post("/storage/upload/initiate-multipart", json=PNG).json()["upload_url"]
        path, _, query = url.partition("?")
        assert client.put(f"{path}/1?{query}", content=b"one").status_code == 200
        time.sleep(0.2)
        late = client.put(f"{path}/2?{query}", content=b"two")
        sweep(queue, files)

        assert late.status_code == 404
        assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []
        assert queue.ledger.sweep(files.delete) == 0


def test_bytes_that_could_not_be_written_may_be_sent_again(tmp_path):
    """The disk was full, or the folder gone: the upload is open as before."""
    folder = tmp_path / "files"
    with running_app(tmp_path) as (client, _):
        begun = client.post("/storage/upload/initiate", json=PNG).json()
        blocked = folder / begun["file_url"].rpartition("/")[2][:2]
        blocked.touch()  # a file where a folder must be
        with capture_logs():
            assert client.put(begun["upload_url"], content=b"first").status_code == 500
        blocked.unlink()

        assert client.put(begun["upload_url"], content=b"second").status_code == 200
        assert client.get(begun["file_url"]).content == b"second"


def test_two_uploads_at_once_take_turns(open_queue):
    """One file's bytes are written by one, and both together never exceed the share; on both databases."""
    here, there = open_queue(), open_queue()
    here.ledger.begin("a", "anna", 60, None)
    here.ledger.begin("b", "anna", 60, None)

    assert claims(here, there, "a") == ["taken", "yours"]
    with pytest.raises(ledger.QuotaExceeded):
        there.ledger.claim("b", 600_000, 1, time.time())
    assert here.ledger.claim("nothing", 1, 1, time.time()) == "unknown"


def test_an_upload_whose_writer_died_can_be_claimed_again(queue):
    """Not as long as it may still write, nor twice; and when it is only late, it opens nothing that is another's."""
    late, now = time.time() - ledger.WRITTEN_WITHIN_S - 1, time.time()
    for file_id, at in (("a", late), ("b", now)):
        queue.ledger.begin(file_id, "anna", 60, None)
        assert queue.ledger.claim(file_id, 600_000, 0, at) == "yours"

    assert queue.ledger.claim("a", 600_000, 0, now) == "taken", "its bytes are there"
    again = [queue.ledger.claim(file_id, 500_000, 0, now, missing=True) for file_id in "aab"]
    assert again == ["yours", "taken", "taken"]
    queue.ledger.reopen("a", late)
    assert queue.ledger.find("a").size == 500_000
    queue.ledger.reopen("a", now)
    assert queue.ledger.find("a").size is None


def claims(here: Queue, there: Queue, file_id: str) -> list[str]:
    return sorted(queue.ledger.claim(file_id, 600_000, 1, time.time()) for queue in (here, there))
