"""Host names: fal's own ones, which this server answers for (fal-protocol.md §1.6), and the loopback ones."""

import ipaddress
import re
from typing import Literal

RUN_HOSTS = ("fal.run", "falrun.com", "ws.fal.run")
"""fal-client 1.0.3 falls back to falrun.com and sends the key and the prompt there: it must be ours too."""
QUEUE_HOSTS = ("queue.fal.run", "queue.falrun.com")
REST_HOSTS = ("rest.fal.ai", "rest.alpha.fal.ai")
FILE_HOSTS = ("v3.fal.media", "v3b.fal.media", "fal.media")
SITE_HOSTS = ("fal.ai", "api.fal.ai")
FAL_HOSTS = (*RUN_HOSTS, *QUEUE_HOSTS, *REST_HOSTS, *FILE_HOSTS, *SITE_HOSTS)

AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]{0,255}|\[[0-9A-Za-z:.%]{2,64}\])(?::\d{0,5})?")
"""A Host header: a name or an address, and a port; "" in old clients' health checks (HTTP/1.0)."""

Surface = Literal["queue", "run"]


def host_name(host: str) -> str:
    """The bare, lower-case name or address of a Host header: no port, no brackets, no trailing dot."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def surface_of(host: str) -> Surface:
    """What a POST to ``/{endpoint id}`` means on this host.

    `queue.` in front of any name queues, because fal-client before 0.11 always uses ``queue.{FAL_RUN_HOST}``.
    """
    return "queue" if host_name(host).startswith("queue.") else "run"


def is_loopback(host: str) -> bool:
    """Whether a Host header, or an address to listen on, can only mean this machine."""
    name = host_name(host) if host.count(":") < 2 or host.startswith("[") else host
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
