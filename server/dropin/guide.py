"""Guide: for each family of fal clients exactly what its machine must be told, ready to paste."""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.dropin.check import NAMES
from server.hosts import FAL_HOSTS

TTL_S = 300
TITLES = {
    "js": "JavaScript, @fal-ai/client 1.x on Node",
    "js-old": "JavaScript, @fal-ai/serverless-client 0.9 to 0.15 on Node",
    "python": "Python, fal-client 0.11 and newer",
    "python-old": "Python, fal-client before 0.11",
    "curl": "curl and programs written by hand",
    "browser": "Pages in a browser, with proxyUrl",
}


class DropinError(Exception):
    """The guide cannot be written; the message says what to tell."""


@dataclass(frozen=True)
class Server:
    """Where clients find the server.

    Args:
        address: IPv4 or IPv6 address that the names shall lead to.
        name: the server's own host name, if clients know one.
        authority: the file that clients must trust, as it is named on their machine; None where they trust it anyway.
    """

    address: str
    name: str | None
    authority: Path | None


def checked_address(text: str | None) -> str:
    """Raises DropinError for what is no address that other machines could use."""
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        raise DropinError("tell the address under which clients reach this server: --address 10.0.0.5") from None
    if address.is_unspecified:
        raise DropinError(f"{text} is every address: tell the one under which clients reach this server: --address")
    return str(address)


def hosts(server: Server, names: Sequence[str] = FAL_HOSTS) -> str:
    """Lines for /etc/hosts (Windows: C:\\Windows\\System32\\drivers\\etc\\hosts)."""
    own = [server.name, f"queue.{server.name}"] if server.name else []
    return f"{server.address}  {' '.join([*names, *own])}"


def dns(server: Server) -> str:
    """Records in zone-file form, one per name, for the studio's DNS server."""
    kind = "AAAA" if ":" in server.address else "A"
    own = [server.name, f"queue.{server.name}"] if server.name else []
    return "\n".join(f"{name + '.':<24} {TTL_S} IN {kind} {server.address}" for name in [*FAL_HOSTS, *own])


def environment(server: Server, client: str) -> list[str]:
    """`export` lines for one family of clients."""
    lines = ["export FAL_KEY=KEY    # from `veraicon keys create NAME` on the server"]
    node = client in {"js", "js-old", "browser"}
    if server.authority:
        lines.append(f"export {'NODE_EXTRA_CA_CERTS' if node else 'SSL_CERT_FILE'}={server.authority}")
        if client == "curl":
            lines += [f"export {name}={server.authority}" for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")]
    if server.name and client in {"python", "python-old"}:
        lines.append(f"export FAL_RUN_HOST={server.name}")
    if server.name and client == "python":
        lines.append(f"export FAL_QUEUE_RUN_HOST={server.name}/queue")
    return lines


def text(server: Server, clients: Sequence[str]) -> str:
    """The whole guide for a person."""
    parts = ["\n".join(section(server, client)) for client in clients]
    return "\n\n".join([*parts, "\n".join(closing(clients))])


def section(server: Server, client: str) -> Iterator[str]:
    yield f"# {TITLES[client]}"
    yield from environment(server, client)
    yield "# in /etc/hosts, or the same in DNS (--format dns):" + why(server, client)
    yield hosts(Server(server.address, None, None), needed(server, client))
    yield from REMARKS.get(client, ())


def needed(server: Server, client: str) -> list[str]:
    """The names that must lead to the server; with a host name of its own, fewer for Python."""
    if not server.name or client not in {"python", "python-old"}:
        return list(NAMES[client])
    queue = [] if client == "python" else [f"queue.{server.name}"]
    uploads = [name for name in NAMES[client] if name.startswith(("rest.", "v3."))]
    return [*queue, *uploads, *(name for name in NAMES[client] if name.endswith("falrun.com"))]


def why(server: Server, client: str) -> str:
    return " for uploads only" if server.name and client in {"python", "python-old"} else ""


REMARKS = {
    "python": (
        "# falrun.com is in the list because this client falls back to it, with key and prompt, when fal.run fails.",
    ),
    "js": (
        "# Or without any name, if the program may be changed by one line:",
        '#   fal.config({ proxyUrl: { url: "https://SERVER/api/fal/proxy", when: "always" } })',
    ),
    "browser": (
        "# The above is for the server behind your page, whose route /api/fal/proxy stays as it is.",
        "# Or let that path of your site lead to this server, which answers it itself:",
        '#   fal.config({ proxyUrl: "/api/fal/proxy" })',
    ),
    "curl": ("# Or change the base URL: https://SERVER/queue instead of https://queue.fal.run.",),
}


def closing(clients: Sequence[str]) -> Iterator[str]:
    yield "# Then, on the client's machine, with the same environment:"
    yield "#   veraicon dropin --script > check.py      (on the server; one file, Python alone)"
    for client in clients:
        yield f"#   python3 check.py --client {client} --address ADDRESS"
