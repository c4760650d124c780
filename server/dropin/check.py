"""What is still missing on this machine before its fal clients reach Veraicon? Needs Python 3.9 and nothing else.

Copy this one file to the machine that runs your programs and start it there, with their environment:

    python3 check.py --client python --address 10.0.0.5

Every line says what was looked at; a problem says what to do. Exit status 1 when there is one. Only the named hosts are
contacted, once each, and the key is sent to none that has not proved by its certificate that it is yours.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import json
import os
import socket
import ssl
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

PATIENCE_S = 5.0
QUEUE, RUN, FALLBACK = "queue.fal.run", "fal.run", ("falrun.com", "queue.falrun.com")
NAMES = {
    "js": (RUN, QUEUE, "ws.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media"),
    "js-old": (RUN, QUEUE, "rest.alpha.fal.ai", "v3.fal.media"),
    "python": (RUN, QUEUE, "rest.fal.ai", "v3.fal.media", *FALLBACK),
    "python-old": (RUN, QUEUE, "rest.alpha.fal.ai", "v3.fal.media"),
    "curl": (RUN, QUEUE, "rest.fal.ai", "v3.fal.media"),
    "browser": (RUN, QUEUE, "rest.fal.ai", "v3.fal.media"),
}
"""Whom each family of clients calls (fal-protocol.md §1.2 to §1.5): js is @fal-ai/client, js-old
@fal-ai/serverless-client, python fal-client since 0.11, python-old before it, curl all that is written by hand, browser
pages with proxyUrl, where these are the names that the application's own server calls."""

Resolve = Callable[[str, int], "set[str]"]


@dataclass(frozen=True)
class Line:
    """One thing that was looked at. `remedy`: what to do, empty when all is well."""

    about: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Look:
    """What to look for: the client, the server's address if known, its port, and the programs' environment."""

    client: str
    address: str | None
    port: int
    environment: Mapping[str, str]
    resolve: Resolve

    @classmethod
    def here(cls, client: str, address: str | None, port: int) -> Look:
        """This machine, as this process sees it."""
        return cls(client, address, port, os.environ, look_up)  # noqa: TID251 - the client's own variables

    @property
    def names(self) -> list[str]:
        """The names that this client will call, with its own settings heeded."""
        run = self.environment.get("FAL_RUN_HOST")
        if not run or not self.client.startswith("python"):
            return list(NAMES[self.client])
        queue = self.environment.get("FAL_QUEUE_RUN_HOST") if self.client == "python" else None
        fixed = [name for name in NAMES[self.client] if name not in (RUN, QUEUE, *FALLBACK)]
        return list(dict.fromkeys([bare(run), bare(queue or "queue." + run), *fixed]))

    @property
    def authority(self) -> str | None:
        """The setting by which this client trusts a private authority."""
        node = self.client.startswith("js") or self.client == "browser"
        return self.environment.get("NODE_EXTRA_CA_CERTS" if node else "SSL_CERT_FILE") or None


def bare(host: str) -> str:
    return host.partition("/")[0].partition(":")[0]


def look_up(name: str, port: int) -> set[str]:
    return {str(found[4][0]) for found in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}


def examine(look: Look) -> Iterator[Line]:
    """Every line, in the order in which problems are best solved."""
    trust = trusted(look)
    yield trust if isinstance(trust, Line) else Line("authority", look.authority or "the system's own authorities")
    key = key_of(look.environment)
    if not key:
        yield Line("key", "FAL_KEY is not set", "export FAL_KEY=… with a key from `veraicon keys create NAME`")
    proved = []
    for name in look.names:
        lines = list(name_lines(look, name, None if isinstance(trust, Line) else trust))
        yield from lines
        if not any(line.remedy for line in lines):
            proved.append(name)
    asks = next((name for name in look.names if name in proved and not name.startswith(("rest.", "v3."))), None)
    if key and asks and not isinstance(trust, Line):
        yield key_line(look, asks, key, trust)
    elif key:
        yield Line("key", "set, but not tried: no name is known to be your server's", "solve the problems above first")


def trusted(look: Look) -> ssl.SSLContext | Line:
    """What this client trusts."""
    file = look.authority
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        return Line("authority", f"{file} cannot be used: {error}", "let the variable name the server's ca.pem")


def key_of(environment: Mapping[str, str]) -> str:
    pair = [environment.get("FAL_KEY_ID", ""), environment.get("FAL_KEY_SECRET", "")]
    return environment.get("FAL_KEY") or (":".join(pair) if all(pair) else "")


def name_lines(look: Look, name: str, trust: ssl.SSLContext | None) -> Iterator[Line]:
    """Where the name leads, and who answers there; stops at the first problem."""
    where = look.address or "the server"
    point = f"let {name} lead to {where}, in DNS or in the hosts file: `veraicon dropin --format hosts` prints the line"
    try:
        addresses = look.resolve(name, look.port)
    except OSError:
        if name in FALLBACK:
            yield Line(name, "leads nowhere, so nothing can leak there")
        else:
            yield Line(name, "has no address", point)
        return
    shown = ", ".join(sorted(addresses))
    if look.address and addresses != {look.address}:
        yield Line(name, f"leads to {shown}, not to {where}", point)
        return
    if not look.address and any(ipaddress.ip_address(one.partition("%")[0]).is_global for one in addresses):
        yield Line(name, f"leads to the public address {shown}: to fal?", f"{point}, or tell --address if it is yours")
        return
    yield Line(name, f"leads to {shown}")
    if trust is not None:
        yield answer_line(look, name, trust)


def answer_line(look: Look, name: str, trust: ssl.SSLContext) -> Line:
    """Who answers under this name."""
    try:
        status, body = ask(look, name, trust, "/ready")
    except ssl.SSLCertVerificationError as error:
        return Line(name, f"its certificate is not trusted: {error.verify_message}", certificate_remedy(look))
    except (OSError, http.client.HTTPException) as error:
        remedy = (
            f"let the server listen on port {look.port}, and let the firewall pass: `veraicon serve --tls --port 443`"
        )
        return Line(name, f"does not answer on port {look.port}: {error}", remedy)
    if status not in (200, 503) or not isinstance(body, dict) or "weights" not in body:
        return Line(name, f"something else than Veraicon answers there ({status})", "stop it, or correct the address")
    if status == 503:
        return Line(name, "Veraicon answers, and is not ready yet: " + "; ".join(map(str, body.get("reasons", []))))
    return Line(name, "Veraicon answers, ready")


def certificate_remedy(look: Look) -> str:
    node = look.client.startswith("js") or look.client == "browser"
    variable = "NODE_EXTRA_CA_CERTS" if node else "SSL_CERT_FILE"
    if look.authority:
        return f"{variable} must name this server's ca.pem; lacks it the name: `veraicon tls issue --name NAME`"
    return f"copy the server's ca.pem here and export {variable}=/path/to/ca.pem"


def ask(look: Look, name: str, trust: ssl.SSLContext, path: str, key: str = "") -> tuple[int, object]:
    """GET from the address to which the name leads, by TLS to that name."""
    address = sorted(look.resolve(name, look.port))[0]
    connection = http.client.HTTPSConnection(name, look.port, timeout=PATIENCE_S, context=trust)
    plain = socket.create_connection((address, look.port), timeout=PATIENCE_S)
    try:
        connection.sock = trust.wrap_socket(plain, server_hostname=name)
        connection.request("GET", path, headers={"Authorization": f"Key {key}"} if key else {})
        response = connection.getresponse()
        content = response.read(65536)
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, None
    finally:
        connection.close()
        plain.close()


def key_line(look: Look, name: str, key: str, trust: ssl.SSLContext) -> Line:
    """Whether the server knows the key: an unknown request is 404 to those it knows, 401 to others."""
    prefix = "" if name.startswith("queue.") else "/queue"
    path = f"{prefix}/any/model/requests/{uuid.uuid4()}/status"
    try:
        status, _ = ask(look, name, trust, path, key)
    except (OSError, http.client.HTTPException) as error:
        return Line("key", f"could not be tried: {error}", "run the check again")
    if status == 404:
        return Line("key", "accepted")
    return Line("key", f"refused ({status})", "make a key on the server: `veraicon keys create NAME`")


def show(lines: Iterator[Line]) -> int:
    """Print each line as it comes. Returns the exit status."""
    problems = 0
    for line in lines:
        problems += bool(line.remedy)
        say(f"{'STOP' if line.remedy else 'ok  '} {line.about}: {line.message}")
        if line.remedy:
            say(f"     -> {line.remedy}")
    say(f"{problems} to solve" if problems else "unchanged fal clients of this machine reach Veraicon")
    return int(problems > 0)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", choices=sorted(NAMES), default="python", help="which client (default python)")
    parser.add_argument("--address", help="the server's address; without, any address that is not public will do")
    parser.add_argument("--port", type=int, default=443, help="fal's clients know 443 only")
    options = parser.parse_args()
    return show(examine(Look.here(options.client, options.address, options.port)))


if __name__ == "__main__":
    sys.exit(main())
