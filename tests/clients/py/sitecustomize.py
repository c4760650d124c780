"""Every host name leads to NAMES_LEAD_TO, as the operator's DNS would; NAMES_ASKED lists them."""

import ipaddress
import os
import socket
from pathlib import Path

look_up, connect = socket.getaddrinfo, socket.socket.connect


def look_up_here(host, port, *rest, **named):
    """Names lead to the server's address; an address stays what it is."""
    name = host.decode() if isinstance(host, bytes) else host
    try:
        ipaddress.ip_address(name)
    except ValueError:
        with Path(os.environ["NAMES_ASKED"]).open("a") as names:
            names.write(f"{name}\n")
        name = os.environ["NAMES_LEAD_TO"].rpartition(":")[0]
    return look_up(name, port, *rest, **named)


def connect_here(self, address):
    """Port 443 leads to the server's port."""
    if isinstance(address, tuple) and address[1] == 443:
        address = (address[0], int(os.environ["NAMES_LEAD_TO"].rpartition(":")[2]), *address[2:])
    return connect(self, address)


if "NAMES_LEAD_TO" in os.environ:
    socket.getaddrinfo, socket.socket.connect = look_up_here, connect_here
