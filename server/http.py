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
import time
from functools import partial

import structlog
import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from server.api.hold import Polls
from server.api.observe import cannot_store, in_short
from server.app import create_app
from server.connection import Connection
from server.files import FileStore
from server.forwarded import Forwarded, Trusted
from server.imports import opened
from server.logs import configure_logs
from server.queue.opening import open_queue
from server.queue.queue import Queue
from server.renewal import follow
from server.settings import Settings, read_settings

GRACE_S = 5
"""After SIGTERM, time for answers that are being sent; whoever still waits for a picture is cut off and asks again."""
KEEP_ALIVE_S = 75
LOOK_EVERY_S = 1.0

log = structlog.get_logger()


def serve_http(settings: Settings, listener: socket.socket) -> None:
    """Answer on `listener` until SIGTERM or SIGINT; HTTP/1.1 only, whose reason phrases clients read."""
    with open_queue(settings) as queue:
        await_database(queue)
        app = create_app(settings, opened(settings.catalog), queue, FileStore(settings.resolved_files_url))
        config = configuration(app, settings)
        config.load()
        if config.ssl and settings.tls_cert and settings.tls_key:
            threading.Thread(
                target=follow, args=(config.ssl, settings.tls_cert, settings.tls_key), name="certificate", daemon=True
            ).start()
        Server(app.state.service.polls, config).run(sockets=[listener])


def await_database(queue: Queue) -> None:
    """Return once it answers. Callers wait meanwhile, for the socket is open; SIGTERM ends the process."""
    told = False
    while True:
        try:
            queue.vault.ticket_secret()
            return
        except SQLAlchemyError as error:
            if not cannot_store(error):
                raise
            if not told:
                log.warning("the database does not answer: waiting for it", reason=in_short(error))
            told = True
            time.sleep(LOOK_EVERY_S)


class Server(uvicorn.Server):
    """uvicorn's, which answers the held polls before it waits for its connections to end."""

    def __init__(self, polls: Polls, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._polls = polls

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._polls.release()
        await super().shutdown(sockets)


def configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        Forwarded(app, Trusted.of(settings.trusted_proxies)),
        http=partial(Connection, send_timeout_s=settings.send_timeout_s),  # pyright: ignore[reportArgumentType]
        ws="none",  # a handshake is answered as any other request: 404, in words
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # Forwarded does it, and for the host as well
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
    configure_logs(settings, "http")
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
