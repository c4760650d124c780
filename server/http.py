"""The HTTP process: `python -m server.http --fd N`, started by `veraicon serve` and `veraicon api` on a bound socket.

A program of its own, so that it starts without what only the commands need (alembic, typer).
"""

import argparse
import os
import resource
import signal
import socket
import sys
import threading

import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.connection import Connection
from server.files import FileStore
from server.imports import opened
from server.logs import configure_logs
from server.queue.opening import open_queue
from server.settings import Settings, read_settings

GRACE_S = 5
"""After SIGTERM, time for answers that are being sent; whoever still waits for a picture is cut off and asks again."""
KEEP_ALIVE_S = 75


def serve_http(settings: Settings, listener: socket.socket) -> None:
    """Answer on `listener` until SIGTERM or SIGINT; HTTP/1.1 only, whose reason phrases clients read."""
    with open_queue(settings) as queue:
        app = create_app(settings, opened(settings.catalog), queue, FileStore(settings.resolved_files_url))
        uvicorn.Server(configuration(app, settings)).run(sockets=[listener])


def configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=settings.trusted_proxies,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


def main() -> None:
    """Serve on the socket that the parent process bound, until SIGTERM, or until the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m server.http", description=main.__doc__)
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of a listening socket")
    listener = socket.socket(fileno=parser.parse_args().fd)
    settings = read_settings()
    configure_logs(settings)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one per connection; the usual 1024 are soon gone
    threading.Thread(target=leave_with_parent, name="parent", daemon=True).start()
    serve_http(settings, listener)


def leave_with_parent() -> None:
    """The parent holds the other end of standard input; its end is the parent's end.

    Read without Python's buffer, whose lock would break the interpreter's exit.
    """
    while os.read(sys.stdin.fileno(), 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
