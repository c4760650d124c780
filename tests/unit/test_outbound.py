"""The guard against SSRF: which addresses a client may make this server talk to."""

import asyncio
import ipaddress
import socket

import pytest

from server.outbound import Outbound, Refused, check, parse_url

PUBLIC = Outbound.parse("public")

PRIVATE = [
    *("127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1"),
    *("255.255.255.255", "198.18.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1"),
    *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::", "fec0::1"),
    "2001:0:7f00:1::",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_not_allowed(address):
    """row 51, row 53."""
    assert not PUBLIC.allows("host", ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_a_public_address_is_allowed(address):
    assert PUBLIC.allows("host", ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "2130706433", "0x7f000001", "0177.0.0.1"),
        *("127.1", "[::ffff:127.0.0.1]", "127。0。0。1", "①②⑦.0.0.1"),
    ],
)
def test_every_spelling_of_a_private_host_is_refused(host):
    """row 51, row 52."""
    with pytest.raises(Refused):
        check(PUBLIC, f"http://{host}:8000/x.png")


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://8.8.8.8/x", "gopher://8.8.8.8/", "http://user:pass@8.8.8.8/", "//8.8.8.8/x"),
        *("", "x.png", "http://", "http:///x", "http://[::1", "http://8.8.8.8:99999/", "javascript:alert(1)"),
        "http://\0/",
    ],
)
def test_a_url_that_is_not_plain_http_is_refused(url):
    """row 57."""
    with pytest.raises(Refused):
        check(PUBLIC, url)


def answer(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make the machine's resolver give these addresses for every name."""
    families = {4: socket.AF_INET, 6: socket.AF_INET6}
    found = [(families[ipaddress.ip_address(a).version], socket.SOCK_STREAM, 6, "", (a, 0)) for a in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_one_private_address_among_public_ones_refuses_the_name(monkeypatch):
    """row 55."""
    answer(monkeypatch, "8.8.8.8", "10.0.0.1")
    with pytest.raises(Refused):
        check(PUBLIC, "http://rebind.example/")


def test_the_checked_address_is_the_one_that_is_given_out(monkeypatch):
    """row 54."""
    answer(monkeypatch, "8.8.8.8")
    assert asyncio.run(PUBLIC.resolve(parse_url("https://name.example/"))) == ipaddress.ip_address("8.8.8.8")


def test_the_operator_can_allow_private_networks_and_names(monkeypatch):
    outbound = Outbound.parse("public, 10.0.0.0/8, media.studio.lan")
    answer(monkeypatch, "10.1.2.3")
    check(outbound, "http://anything.example/")
    answer(monkeypatch, "192.168.0.9")
    check(outbound, "http://Media.Studio.LAN./x")
    with pytest.raises(Refused):
        check(outbound, "http://other.studio.lan/x")


def test_without_public_only_the_named_ones_are_allowed():
    check(Outbound.parse("127.0.0.0/8"), "http://127.0.0.1/")
    with pytest.raises(Refused):
        check(Outbound.parse("127.0.0.0/8"), "http://8.8.8.8/")


def test_none_opens_nothing():
    with pytest.raises(Refused, match="opens no URLs"):
        check(Outbound.parse("none"), "http://8.8.8.8/")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "public,none", "10.0.0.1/8"])
def test_a_setting_that_means_nothing_is_refused(text):
    with pytest.raises(ValueError, match="outbound"):
        Outbound.parse(text)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_cannot_be_read_are_named(tmp_path, content):
    file = tmp_path / "studio.pem"
    if content:
        file.write_text(content)
    with pytest.raises(ValueError, match=r"studio\.pem"):
        Outbound(public=False, ca=file).context()
