"""`python -m server.worker`: the process that runs jobs, with the settings of the environment."""

import argparse
import os
import resource
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Sequence

import structlog

from server.exits import EXIT_RECYCLE
from server.imports import opened
from server.logs import configure_logs
from server.queue.opening import open_queue
from server.settings import read_settings
from server.worker.departure import Departure
from server.worker.worker import Worker

log = structlog.get_logger()


def leave_with_supervisor(departure: Departure) -> None:
    """Wait for the end of standard input. Python's own buffer has a lock that would break its exit."""
    while os.read(sys.stdin.fileno(), 1):
        continue
    departure.leave()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker with the settings of the environment until SIGTERM, or until the supervisor is gone."""
    host = socket.gethostname()
    parser = argparse.ArgumentParser(prog="python -m server.worker", description=main.__doc__)
    parser.add_argument("--name", default=f"{host}:0", help="this worker's place, the same after a restart")
    parser.add_argument("--id", default=f"{host}:{uuid.uuid4()}", help="names this run; never used twice")
    parser.add_argument("--supervised", action="store_true", help="leave when standard input ends")
    options = parser.parse_args(arguments)
    settings = read_settings()
    configure_logs(settings, "worker")
    structlog.contextvars.bind_contextvars(worker=options.name)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # pictures are fetched side by side
    with open_queue(settings) as queue:
        worker = Worker(settings, queue, opened(settings.catalog), options.name, options.id)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.departure.leave())
        if options.supervised:
            threading.Thread(target=leave_with_supervisor, args=(worker.departure,), daemon=True).start()
        return run(worker)


def run(worker: Worker) -> int:
    """Worker.run. What breaks it ends the process at once: Python would wait for the threads that hold the device."""
    try:
        return worker.run()
    except BaseException:
        try:
            log.critical("the worker's main thread broke", exc_info=True)
        finally:
            os._exit(EXIT_RECYCLE)


if __name__ == "__main__":
    os._exit(main())  # a picture that is still being fetched, for nobody now, would hold up the exit
