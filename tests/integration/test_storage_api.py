"""Uploads and files: fal-protocol.md §4.1, protocols A to E, §10 statements 67–76 and 80."""

from datetime import datetime, timedelta
from urllib.parse import urlsplit

import pytest

from tests.app import LOCAL, running_app
from tests.wire import Answer, Wire

REST, CDN = "rest.fal.ai", "v3.fal.media"
CONTENT = bytes(range(256)) * 40
PNG = {"content_type": "image/png", "file_name": "face.png"}


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def put_bytes(wire: Wire, url: str, content: bytes) -> Answer:
    """As fal's clients do: no key, the content type of the file."""
    return wire.follow(url, "PUT", body=content, headers={"Content-Type": "image/png"})


@pytest.mark.parametrize(
    ("host", "query"),
    [(REST, "?storage_type=fal-cdn-v3"), ("rest.alpha.fal.ai", ""), (REST, "?storage_type=gcs"), (None, "")],
)
def test_a_file_goes_to_the_url_that_initiate_names(wire, host, query):
    """67, 68, 69, 75, 76: on both rest hosts, with and without the query, and on the server's own address."""
    begun = wire.post(f"/storage/upload/initiate{query}", PNG, host=host)
    put = put_bytes(wire, begun.json["upload_url"], CONTENT)
    got = wire.follow(begun.json["file_url"])

    assert begun.status == put.status == got.status == 200
    assert set(begun.json) == {"upload_url", "file_url"}
    assert got.body == CONTENT
    assert got.headers["content-type"] == "image/png"


def test_the_urls_name_the_host_that_was_asked(wire):
    begun = wire.post("/storage/upload/initiate", PNG, host=REST)

    assert urlsplit(begun.json["file_url"]).netloc == REST
    assert urlsplit(begun.json["file_url"]).path.endswith("_face.png")


def test_a_file_that_was_never_sent_is_not_found(wire):
    begun = wire.post("/storage/upload/initiate", PNG, host=REST)

    assert wire.follow(begun.json["file_url"]).status == 404


def test_parts_are_joined_by_number_whatever_their_order(wire):
    """70, 71: protocol B, as JavaScript speaks it above 90 MiB."""
    begun = wire.post("/storage/upload/initiate-multipart?storage_type=fal-cdn-v3", PNG, host=REST).json
    path, _, query = begun["upload_url"].partition("?")
    parts = [put_bytes(wire, f"{path}/{number}?{query}", CONTENT[number::3]) for number in (2, 1)]
    done = wire.follow(f"{path}/complete?{query}", "POST", body={"parts": [part.json for part in parts]})

    assert [part.json["partNumber"] for part in parts] == [2, 1]
    assert all(part.headers["etag"] == part.json["etag"] for part in parts)
    assert done.status == 200
    assert wire.follow(begun["file_url"]).body == CONTENT[1::3] + CONTENT[2::3]


def test_a_part_that_is_listed_twice_is_joined_once(wire):
    begun = wire.post("/storage/upload/initiate-multipart", PNG, host=REST).json
    path, _, query = begun["upload_url"].partition("?")
    put_bytes(wire, f"{path}/1?{query}", b"one")
    done = wire.follow(f"{path}/complete?{query}", "POST", body={"parts": [{"partNumber": 1}] * 3})

    assert (done.status, done.json) == (200, {"size": 3})
    assert wire.follow(begun["file_url"]).body == b"one"


def test_an_upload_without_one_of_its_parts_is_refused(wire):
    begun = wire.post("/storage/upload/initiate-multipart", PNG, host=REST).json
    path, _, query = begun["upload_url"].partition("?")
    put_bytes(wire, f"{path}/1?{query}", b"one")
    done = wire.follow(f"{path}/complete?{query}", "POST", body={"parts": [{"partNumber": 1}, {"partNumber": 2}]})

    assert done.status == 400
    assert "missing" in done.json["detail"]


def test_python_gets_a_token_and_sends_the_file_with_it(wire):
    """72, 73: protocol C."""
    token = wire.post("/storage/auth/token?storage_type=fal-cdn-v3", {}, host=REST).json
    bearer = {"Authorization": f"{token['token_type']} {token['token']}", "Content-Type": "image/png"}
    sent = wire.post("/files/upload", CONTENT, host=CDN, headers={**bearer, "X-Fal-File-Name": "a b/../c.png"})

    assert token["expires_at"].endswith("+00:00")
    assert datetime.fromisoformat(token["expires_at"]).utcoffset() == timedelta(0)
    assert token["base_url"] == f"http://{REST}"
    assert sent.status == 200
    assert sent.json["access_url"].startswith(f"http://{CDN}/files/")
    assert wire.follow(sent.json["access_url"]).body == CONTENT


def test_python_sends_large_files_in_parts(wire):
    """71, 74: protocol D."""
    token = wire.post("/storage/auth/token", {}, host=REST).json
    bearer = {"Authorization": f"Bearer {token['token']}", "Content-Type": "application/octet-stream"}
    begun = wire.post("/files/upload/multipart", None, host=CDN, headers=bearer).json
    base = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    for number, content in ((2, b"second"), (1, b"first"), (3, b"")):
        part = wire.follow(f"{base}/{number}", "PUT", body=content, headers=bearer)
        assert part.status == 200
        assert part.headers["etag"]
    done = wire.follow(f"{base}/complete", "POST", body={"parts": [{"partNumber": n} for n in (2, 3, 1)]})

    assert done.status == 200
    assert wire.follow(begun["access_url"]).body == b"firstsecond"


@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", "Bearer 99999999999.00", "Key \xff"])
def test_a_file_without_a_valid_token_is_refused(wire, authorization):
    """80."""
    headers = {"Authorization": authorization} if authorization else {}
    answer = wire.post("/files/upload", CONTENT, host=CDN, headers=headers)

    assert answer.status == 401
    assert isinstance(answer.json["detail"], str)


def test_one_files_ticket_does_not_open_another(wire):
    mine, theirs = (wire.post("/storage/upload/initiate", PNG, host=REST).json for _ in range(2))
    put_bytes(wire, theirs["upload_url"], b"theirs")
    ticket = mine["upload_url"].partition("?")[2]

    assert put_bytes(wire, f"{theirs['file_url']}?{ticket}", b"mine").status == 401
    assert put_bytes(wire, theirs["file_url"], b"mine").status == 401
    assert wire.follow(theirs["file_url"]).body == b"theirs"


def test_head_and_a_byte_range_are_answered(wire):
    url = wire.post("/storage/upload/initiate", PNG, host=REST).json
    put_bytes(wire, url["upload_url"], CONTENT)
    head = wire.follow(url["file_url"], "HEAD")
    middle = wire.follow(url["file_url"], headers={"Range": "bytes=10-19"})
    tail = wire.follow(url["file_url"], headers={"Range": "bytes=-5"})
    beyond = wire.follow(url["file_url"], headers={"Range": "bytes=999999-"})

    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    assert (middle.status, middle.body) == (206, CONTENT[10:20])
    assert middle.headers["content-range"] == f"bytes 10-19/{len(CONTENT)}"
    assert (tail.status, tail.body) == (206, CONTENT[-5:])
    assert (beyond.status, beyond.body) == (200, CONTENT)


def test_an_uploaded_web_page_is_a_download_and_never_runs_here(wire):
    page = {"content_type": "text/html", "file_name": "x.html"}
    url = wire.post("/storage/upload/initiate", page, host=REST).json
    put_bytes(wire, url["upload_url"], b"<script>alert(1)</script>")
    got = wire.follow(url["file_url"])

    assert got.headers["content-disposition"].startswith("attachment")
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in got.headers["content-security-policy"]


def test_files_may_be_read_by_any_web_page(wire):
    url = wire.post("/storage/upload/initiate", PNG, host=REST).json
    put_bytes(wire, url["upload_url"], CONTENT)

    got = wire.follow(url["file_url"], headers={"Origin": "https://app.example"})

    assert got.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%00", "x", "a" * 300, "0" * 32 + "_..", "%0d%0aX-A:%20b"])
def test_what_cannot_be_a_file_is_not_found(wire, name):
    assert wire.get(f"/files/{name}").status == 404


def test_an_upload_larger_than_the_limit_is_cut_off(tmp_path):
    with running_app(tmp_path, max_upload_mb=1) as (client, _):
        begun = client.post("/storage/upload/initiate", json=PNG).json()
        announced = client.put(begun["upload_url"], content=b"x" * (2**20 + 1))
        endless = client.put(begun["upload_url"], content=(b"x" * 2**16 for _ in range(40)))

    for answer in (announced, endless):
        assert answer.status_code == 413
        assert "1 MB" in answer.json()["detail"]
    assert begun["file_url"].startswith(LOCAL)


@pytest.mark.parametrize(
    ("named", "served"),
    [
        ("application/x-studio-scene", "application/x-studio-scene"),
        ("Image/PNG", "Image/PNG"),
        ("no type", "application/octet-stream"),
    ],
)
def test_a_file_is_served_under_the_type_of_its_upload(wire, named, served):
    """76: whatever type that is, as long as it is one; and never shown by a browser as this server's own page."""
    begun = wire.post(
        "/storage/upload/initiate", {"content_type": named, "file_name": "x.dat"}, host="rest.fal.ai"
    ).json
    assert wire.follow(begun["upload_url"], "PUT", body=b"bytes", headers={"Content-Type": named}).status == 200
    answer = wire.follow(begun["file_url"])
    assert (answer.content_type, answer.body) == (served, b"bytes")
    assert answer.headers["content-disposition"].startswith("attachment")
