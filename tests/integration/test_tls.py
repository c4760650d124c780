"""The private authority and the server's certificate: fal-protocol.md §1.6, §10 statement 1."""

import json
import socket
import ssl
import stat
import threading
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from server import tls
from server.checks import tls_findings
from server.hosts import FAL_HOSTS
from server.renewal import keep_renewed
from server.settings import read_settings
from server.tls import TlsError, ensure, expiry, issue, names_of, read_certificate

STRICT = ssl.VERIFY_X509_STRICT


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", [*FAL_HOSTS, "localhost", "127.0.0.1"])
def test_a_client_that_trusts_the_authority_accepts_every_name(tls_server, name):
    """1: with the strict checks that Python 3.13 makes by default."""
    context = ssl.create_default_context(cafile=tls_server.ca_file)
    context.verify_flags |= STRICT
    port = urlsplit(tls_server.url).port
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        assert secure.version() in {"TLSv1.2", "TLSv1.3"}


def test_a_client_that_does_not_trust_the_authority_refuses(tls_server):
    context = ssl.create_default_context()
    port = urlsplit(tls_server.url).port
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname="fal.run")


def test_urls_say_https_where_the_client_spoke_https(tls_server, pulid_input):
    request = tls_server.wire.submit("fal-ai/pulid", pulid_input)

    assert request["status_url"].startswith("https://queue.fal.run/fal-ai/pulid/")
    assert tls_server.wire.finish(request).json["images"][0]["url"].startswith("https://queue.fal.run/files/")


def test_private_keys_are_readable_by_their_owner_only(tmp_path):
    files = issue(tmp_path)

    assert mode_of(files.key) == mode_of(files.authority_key) == 0o600
    assert mode_of(files.certificate) == mode_of(files.authority) == 0o644
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ca.key", "ca.pem", "server.key", "server.pem"]


def test_issuing_again_keeps_the_authority_and_replaces_the_certificate(tmp_path):
    files = issue(tmp_path, ["gpu1.studio.lan", "10.0.0.5"])
    authority, first = files.authority.read_bytes(), read_certificate(files.certificate)
    issue(tmp_path, ["gpu2.studio.lan"])

    assert files.authority.read_bytes() == authority
    assert read_certificate(files.certificate).serial_number != first.serial_number
    assert "gpu2.studio.lan" in names_of(files.certificate)
    assert "gpu1.studio.lan" not in names_of(files.certificate)


def test_names_may_be_addresses(tmp_path):
    names = names_of(issue(tmp_path, ["10.0.0.5", "fd00::5", "gpu1"]).certificate)

    assert {"10.0.0.5", "fd00::5", "gpu1", "fal.run", "127.0.0.1", "::1"} <= set(names)


def test_ensure_issues_once_and_again_only_for_a_new_name(tmp_path):
    first = ensure(tmp_path, ["a.lan"]).certificate.read_bytes()
    assert ensure(tmp_path, ["a.lan"]).certificate.read_bytes() == first
    files = ensure(tmp_path, ["b.lan"])

    assert {"a.lan", "b.lan"} <= set(names_of(files.certificate))


def test_ensure_renews_what_is_about_to_expire(tmp_path, monkeypatch):
    monkeypatch.setattr(tls, "CERTIFICATE_LIFE", timedelta(days=10))
    soon = expiry(issue(tmp_path).certificate)
    monkeypatch.undo()

    assert expiry(ensure(tmp_path).certificate) > soon + timedelta(days=300)


def test_a_certificate_lives_no_longer_than_browsers_allow(tmp_path):
    assert expiry(issue(tmp_path).certificate) - datetime.now(UTC) <= timedelta(days=398)


@pytest.mark.parametrize("name", ["", "*..x", "ex ample", "bücher.example"])
def test_what_cannot_be_a_name_is_refused_with_its_name(tmp_path, name):
    with pytest.raises(TlsError, match="neither a host name nor an IP address"):
        issue(tmp_path, [name])


def test_half_an_authority_is_refused_and_never_replaced(tmp_path):
    files = issue(tmp_path)
    files.authority_key.unlink()

    with pytest.raises(TlsError, match="restore"):
        issue(tmp_path)
    assert files.authority.exists()


def test_an_authority_with_another_ones_key_is_refused(tmp_path):
    files, other = issue(tmp_path / "a"), issue(tmp_path / "b")
    files.authority_key.write_bytes(other.authority_key.read_bytes())

    with pytest.raises(TlsError, match="do not belong together"):
        issue(tmp_path / "a")


def test_the_server_tells_scripts_where_it_is(tls_server):
    sign = json.loads((tls_server.data_dir / "server.json").read_text())

    assert sign["url"].startswith("https://127.0.0.1:")
    assert sign["pid"] == tls_server.process.pid


def test_a_name_of_the_operator_is_covered_with_queue_in_front(tmp_path):
    """§1.4: fal-client before 0.11 calls queue.{FAL_RUN_HOST}."""
    names = names_of(issue(tmp_path, ["gpu1.studio.lan", "10.0.0.5"]).certificate)
    again = names_of(issue(tmp_path, names).certificate)

    assert "queue.gpu1.studio.lan" in names
    assert not {"queue.10.0.0.5", "queue.localhost", "queue.rest.fal.ai"} & set(names)
    assert set(again) == set(names)


def served_names(server) -> list[str]:
    """The names in the certificate that the server presents right now."""
    context = ssl.create_default_context(cafile=server.ca_file)
    address = ("127.0.0.1", urlsplit(server.url).port)
    with (
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="fal.run") as secure,
    ):
        return [value for _, value in secure.getpeercert()["subjectAltName"]]


def wait_until_served(server, name: str) -> None:
    limit = time.monotonic() + 30
    while name not in served_names(server):
        assert time.monotonic() < limit, f"{name} is not served"
        time.sleep(0.1)


def test_a_renewed_certificate_is_served_without_a_restart(tls_server):
    """Open connections live on; clients trust the same authority."""
    connection = tls_server.wire.connect()
    tls_server.wire.send(connection, "GET", "/health")
    assert connection.getresponse().read() == b"{}"
    issue(tls_server.data_dir / "tls", ["renewed.lan"])
    wait_until_served(tls_server, "renewed.lan")

    tls_server.wire.send(connection, "GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_certificate_that_cannot_be_used_leaves_the_old_one_in_use(tls_server):
    files = issue(tls_server.data_dir / "tls", ["good.lan"])
    wait_until_served(tls_server, "good.lan")
    files.certificate.write_text("-----BEGIN CERTIFICATE-----\nhalf\n")
    limit = time.monotonic() + 30
    while "the new certificate cannot be used" not in tls_server.log:
        assert time.monotonic() < limit, "nothing was said about it"
        time.sleep(0.1)

    assert "good.lan" in served_names(tls_server)
    issue(tls_server.data_dir / "tls", ["better.lan"])
    wait_until_served(tls_server, "better.lan")


def test_a_serving_process_renews_its_own_certificate_and_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(tls, "CERTIFICATE_LIFE", timedelta(days=10))
    files, foreign, stop = issue(tmp_path / "tls", ["gpu1.lan"]), issue(tmp_path / "foreign"), threading.Event()
    monkeypatch.undo()
    soon = expiry(files.certificate)
    keep_renewed(foreign.certificate, tmp_path / "tls", stop)
    keep_renewed(None, tmp_path / "tls", stop)
    keeper = threading.Thread(target=keep_renewed, args=(files.certificate, tmp_path / "tls", stop, 0.05))
    keeper.start()
    limit = time.monotonic() + 30
    while expiry(files.certificate) == soon and time.monotonic() < limit:
        time.sleep(0.05)
    stop.set()
    keeper.join()

    assert expiry(files.certificate) > soon + timedelta(days=300)
    assert "queue.gpu1.lan" in names_of(files.certificate)
    assert expiry(foreign.certificate) < soon + timedelta(days=1)


def test_certificates_issued_at_once_fit_their_keys(tmp_path):
    issuers = [threading.Thread(target=issue, args=(tmp_path,)) for _ in range(8)]
    for issuer in issuers:
        issuer.start()
    for issuer in issuers:
        issuer.join()
    files = tls.TlsFiles(tmp_path)

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)
    assert read_certificate(files.certificate).issuer == read_certificate(files.authority).subject


def test_doctor_tells_when_our_certificate_is_renewed_and_what_a_foreign_one_lacks(tmp_path):
    own = issue(tmp_path / "data" / "tls")
    (mine,) = tls_findings(read_settings(data_dir=tmp_path / "data"))
    renewed = expiry(own.certificate) - tls.RENEW_BEFORE
    studio = sign_for(tmp_path / "studio", ["gpu1.lan", "*.fal.run", "fal.run"])
    _, lacks = tls_findings(read_settings(data_dir=tmp_path, tls_cert=studio.certificate, tls_key=studio.key))

    assert f"renews it by itself from {renewed:%Y-%m-%d}" in mine.message
    assert lacks.level == "warn"
    assert "rest.fal.ai" in lacks.message
    assert "queue.fal.run" not in lacks.message


def sign_for(folder, names):
    """A certificate for these names alone, as a studio's own authority would sign it."""
    files = issue(folder)
    authority, authority_key = tls.read_authority(files)
    key = tls.serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    certificate = tls.sign_server(names, key.public_key(), authority, authority_key)
    files.certificate.write_bytes(certificate.public_bytes(tls.serialization.Encoding.PEM))
    return files
