"""Where a request's pictures come from, and what servers on the way may do (faults.md rows 51 to 61, 71)."""

import contextlib
import http.server
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.endpoint import ImageField
from server.decode import ImageLoadError
from server.files import FileStore
from server.inputs import FileDownloadError, FileTooLarge, decode_data_uri, fetch
from server.settings import Settings
from server.tls import TlsFiles, issue
from tests.pictures import data_uri, encoded, picture

LOC = ("reference_images", 2, "image_url")
BODY = ("body", *LOC)


PNG = encoded(picture())


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(f"file://{tmp_path}/files")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    limits = {"max_image_mb": 1, "max_image_mp": 1, "fetch_timeout_s": 1.0}
    return Settings(data_dir=tmp_path, outbound="public,127.0.0.0/8", **limits)


@pytest.fixture
def fetched(settings: Settings, files: FileStore) -> Callable[[str], Image.Image]:
    return lambda url: fetch(ImageField(LOC, url), settings, files)


# A web server that misbehaves on purpose


@dataclass
class Site:
    """A real HTTP server; `pages` maps a path to what writes the whole answer."""

    url: str
    pages: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    authority: Path | None = None

    def page(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> str:
        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.pages[path] = answer
        return self.url + path


@contextlib.contextmanager
def opened_site(certificate: TlsFiles | None = None) -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.seen.append(f"{self.headers['host']}{self.path}")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                web.pages[self.path](self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web = Site(f"http://127.0.0.1:{server.server_port}")
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.certificate, certificate.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        web = Site(web.url.replace("http", "https"), authority=certificate.authority)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield web
    server.shutdown()
    server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    with opened_site() as web:
        yield web


@pytest.fixture
def secure_site(tmp_path: Path) -> Iterator[Site]:
    with opened_site(issue(tmp_path / "tls")) as web:
        yield web


# Where pictures come from


def test_a_url_is_fetched(site, fetched):
    assert np.array_equal(np.asarray(fetched(site.page("/a.png", PNG))), np.asarray(picture()))


def test_an_own_file_is_read_without_the_network(fetched, files):
    stored = files.save(PNG, "image/png")
    for url in (f"file:{stored.id}", f"https://v3.fal.media/files/{stored.id}", f"http://x.invalid/files/{stored.id}"):
        assert fetched(url).size == (40, 30)


def test_an_own_file_that_is_gone_is_said_to_be(fetched, files):
    with pytest.raises(FileDownloadError, match="no longer stored"):
        fetched("file:" + "0" * 32 + "_a.png")


@pytest.mark.parametrize(
    "uri",
    [
        data_uri(PNG),
        data_uri(PNG).rstrip("="),
        data_uri(PNG).replace("+", "-").replace("/", "_").replace("data:image_png", "data:image/png"),
        " DATA:image/png;base64,\n"
        + "\r\n ".join(data_uri(PNG).partition(",")[2][i : i + 50] for i in range(0, 4000, 50)),
        data_uri(PNG, "text/html"),
        data_uri(PNG).replace("+", "%2B").replace("=", "%3D"),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
    ],
    ids=["plain", "unpadded", "urlsafe", "whitespace", "wrong type", "percent in base64", "percent"],
)
def test_a_data_uri_is_read_leniently(fetched, uri):
    """row 71."""
    assert fetched(uri).size == (40, 30)


def test_a_data_uris_type_is_what_its_bytes_say(settings):
    """row 71."""
    assert decode_data_uri(ImageField(LOC, data_uri(PNG, "text/html")), settings) == (PNG, "image/png")
    html = data_uri(b"<script>alert(1)</script>", "text/html")
    assert decode_data_uri(ImageField(LOC, html), settings)[1] == "application/octet-stream"


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("data:image/png;base64", FileDownloadError),
        ("data:image/png;base64,@@@@", FileDownloadError),
        ("data:image/png;base64,", ImageLoadError),
        ("data:,hello", ImageLoadError),
        (data_uri(bytes(2_000_000)), FileTooLarge),
        ("data:," + "a" * 10_000_000, FileTooLarge),
    ],
)
def test_a_bad_data_uri_is_blamed_on_its_field(fetched, uri, error):
    """row 57, row 71."""
    with pytest.raises(error) as caught:
        fetched(uri)
    assert caught.value.loc == LOC


# What a server on the way may do


@pytest.mark.parametrize("status", [404, 403, 500, 204])
def test_an_answer_that_is_not_200_is_named(site, fetched, status):
    """row 61."""
    with pytest.raises(FileDownloadError, match=str(status)) as caught:
        fetched(site.page("/x", b"", status))
    assert caught.value.loc == LOC


def test_redirects_are_followed_to_a_limit(site, fetched):
    """row 56."""
    site.page("/end", PNG)
    for hop in range(6):
        site.page(f"/{hop}", status=302, Location=f"/{hop - 1}" if hop else "/end")
    assert fetched(f"{site.url}/4").size == (40, 30)
    with pytest.raises(FileDownloadError, match="redirects more than 5"):
        fetched(f"{site.url}/5")


@pytest.mark.parametrize(
    "target", ["http://10.0.0.1/x.png", "http://169.254.169.254/", "file:///etc/passwd", "http://["]
)
def test_a_redirect_to_where_we_may_not_go_is_refused(site, fetched, target):
    """row 56."""
    with pytest.raises(FileDownloadError):
        fetched(site.page("/x", status=302, Location=target))


def test_a_private_host_is_never_connected_to(site, settings, files):
    """row 51."""
    closed = settings.model_copy(update={"outbound": "public"})
    with pytest.raises(FileDownloadError, match="may open"):
        fetch(ImageField(LOC, site.page("/x", PNG)), closed, files)
    assert site.seen == []


def test_a_redirect_from_https_to_http_is_refused(site, secure_site, settings, files):
    """row 56."""
    start = secure_site.page("/start", status=302, Location=site.page("/x", PNG))
    trusting = settings.model_copy(update={"outbound_ca": secure_site.authority})
    with pytest.raises(FileDownloadError, match="less safe"):
        fetch(ImageField(LOC, start), trusting, files)
    assert site.seen == []


def test_the_operators_own_authority_is_trusted_where_it_is_named(secure_site, settings, files):
    url = secure_site.page("/a.png", PNG)
    with pytest.raises(FileDownloadError, match="ConnectError"):
        fetch(ImageField(LOC, url), settings, files)
    trusting = settings.model_copy(update={"outbound_ca": secure_site.authority})
    assert fetch(ImageField(LOC, url), trusting, files).size == (40, 30)


def test_a_name_is_looked_up_once_and_its_checked_address_asked(monkeypatch, site, fetched):
    """row 54: whatever the name means a moment later."""
    answers = iter(["127.0.0.1", "127.0.0.2", "10.0.0.1"])

    def rebinding(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 0))]

    url = site.page("/x", PNG).replace("127.0.0.1", "rebind.example")
    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetched(url).size == (40, 30)
    assert site.seen == [f"{url.removeprefix('http://').removesuffix('/x')}/x"]
    assert next(answers) == "127.0.0.2"


def test_less_than_the_declared_size_is_a_download_error(site, fetched):
    """row 58."""
    with pytest.raises(FileDownloadError):
        fetched(site.page("/x", PNG[:50], Content_Length="5000"))


def test_a_declared_size_above_the_limit_is_refused_before_the_body(site, fetched):
    """row 58."""
    with pytest.raises(FileTooLarge) as caught:
        fetched(site.page("/x", b"", Content_Length="10000000000"))
    assert caught.value.ctx == {"max_size": 1024 * 1024}


def test_an_endless_body_is_cut_at_the_limit(site, fetched):
    """row 58."""

    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(65536))

    site.pages["/x"] = endless
    with pytest.raises(FileTooLarge):
        fetched(f"{site.url}/x")


def test_a_gzip_bomb_is_cut_at_the_limit(site, fetched):
    """row 60."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(100)) + packer.flush()
    assert len(bomb) < 200_000
    with pytest.raises(FileTooLarge):
        fetched(site.page("/x", bomb, Content_Encoding="gzip"))


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_slow_server_is_given_up_in_time(site, fetched, where):
    """row 59."""

    def trickle(handler: http.server.BaseHTTPRequestHandler) -> None:
        if where == "body":
            handler.send_response(200)
            handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"H")
            handler.wfile.flush()
            time.sleep(0.1)

    site.pages["/x"] = trickle
    began = time.monotonic()
    with pytest.raises(FileDownloadError, match="within 1 s"):
        fetched(f"{site.url}/x")
    assert time.monotonic() - began < 5


def test_nobody_listening_is_a_download_error(fetched):
    with pytest.raises(FileDownloadError):
        fetched("http://127.0.0.1:9/x.png")
