"""FrontProxy: the least reverse proxy that terminates TLS: says who asked and how, and passes bytes on unbuffered."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.wire import Wire

HEAD_END = b"\r\n\r\n"


@contextmanager
def front_proxy(behind: str, certificate: Path, key: Path, *headers: str) -> Iterator[Wire]:
    """A proxy in front of the server at `behind` (host:port) that adds `headers` to every request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    added = "".join(f"{header}\r\n" for header in (*headers, "Connection: close")).encode()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client, context, behind, added), daemon=True).start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield Wire(
            f"127.0.0.1:{listener.getsockname()[1]}", ssl.create_default_context(cafile=certificate.with_name("ca.pem"))
        )
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()


def serve(client: socket.socket, context: ssl.SSLContext, behind: str, added: bytes) -> None:
    """One request, one connection."""
    host, _, port = behind.rpartition(":")
    with (
        contextlib.suppress(OSError),
        context.wrap_socket(client, server_side=True) as secure,
        socket.create_connection((host, int(port))) as server,
    ):
        head = b""
        while HEAD_END not in head and (more := secure.recv(65536)):
            head += more
        line, _, rest = head.partition(b"\r\n")
        server.sendall(line + b"\r\n" + added + rest)
        length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
        left = length - len(head.partition(HEAD_END)[2])
        while left > 0 and (more := secure.recv(65536)):
            server.sendall(more)
            left -= len(more)
        while more := server.recv(65536):
            secure.sendall(more)
