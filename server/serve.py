"""serve, api, worker: check this host, open the door, keep the processes alive, stop them in bounded time."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog

from pipelines.endpoint import Endpoint
from server.caretaker import take_care
from server.checks import Finding, cannot_listen, keys_finding, listen, tls_findings, weights_findings
from server.files import FileStore
from server.imports import opened
from server.logs import configure_logs
from server.outbound import Outbound
from server.queue.migrations import create_tables
from server.queue.opening import open_queue
from server.queue.queue import Queue
from server.queue.residence import Residence
from server.queue.soundness import refuse_damaged
from server.renewal import keep_renewed
from server.settings import Settings, child_environment
from server.supervisor.child import Child
from server.supervisor.supervisor import places_of, supervise
from server.tls import ensure
from server.webhooks import Sender

Say = Callable[[str], None]

ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound
RESTART_S = (0.2, 1.0, 5.0)
"""Pauses before the HTTP process is started again; the socket stays open, so that callers wait instead of failing."""

HTTP_LEAVES_S = 10
"""After SIGTERM, time for the HTTP process to end; server.http needs half of it at most."""

log = structlog.get_logger()


class CannotServe(Exception):
    """Something that must be put right before the server starts."""


def serve(settings: Settings, *, tls: bool, say: Say) -> None:
    """Everything on this host, until SIGTERM or SIGINT. Raises CannotServe before anything has started."""
    settings, catalog = prepared(settings, tls=tls)
    refuse(weights_findings(settings, catalog))
    places = places_of(settings)
    with open_door(settings) as listener, door_sign(settings, listener), stopping() as stop:
        say(welcome(settings, catalog, listener))
        with (
            open_queue(settings) as queue,
            background(settings, queue, stop),
            thread(keep_http, settings, listener, stop),
        ):
            supervise(settings, queue, places, stop)


def serve_api(settings: Settings, *, tls: bool, say: Say) -> None:
    """HTTP only, until SIGTERM or SIGINT. Raises CannotServe before anything has started."""
    settings, catalog = prepared(settings, tls=tls)
    with open_door(settings) as listener, door_sign(settings, listener), stopping() as stop:
        say(welcome(settings, catalog, listener))
        with open_queue(settings) as queue, background(settings, queue, stop):
            keep_http(settings, listener, stop)


def serve_workers(settings: Settings, *, say: Say) -> None:
    """Workers only, until SIGTERM or SIGINT. Raises CannotServe before anything has started."""
    configure_logs(settings, "server")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    catalog = opened(settings.catalog)
    refuse(weights_findings(settings, catalog))
    check_outside(settings)
    places = places_of(settings)
    settle(settings)
    with open_queue(settings) as queue, stopping() as stop:
        say(f"Working on {settings.resolved_device} for {', '.join(endpoint.id for endpoint in catalog)}")
        files, residence = FileStore(settings.resolved_files_url), Residence(settings.resolved_database_url)
        with (
            thread(caring, queue, files, settings, stop),
            thread(residence.keep, stop, vanish),
        ):
            supervise(settings, queue, places, stop)


def prepared(settings: Settings, *, tls: bool) -> tuple[Settings, Sequence[Endpoint]]:
    """The settings with their certificate, and the catalog; the tables exist. Raises CannotServe."""
    configure_logs(settings, "server")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if tls and not settings.tls_cert:
        names = () if settings.host in ANY_ADDRESS else (settings.host,)
        files = ensure(tls_folder(settings), names)
        settings = settings.model_copy(update={"tls_cert": files.certificate, "tls_key": files.key})
    catalog = opened(settings.catalog)
    check_outside(settings)
    settle(settings)
    with open_queue(settings) as queue:
        refuse([*tls_findings(settings), keys_finding(settings, queue)])
    return settings, catalog


def settle(settings: Settings) -> None:
    """Make the queue ours, sound and of this version. Raises StoreError: it is another host's, damaged or newer."""
    served_before = Residence(settings.resolved_database_url).move_in()
    refuse_damaged(settings.resolved_database_url, served_before=served_before)
    create_tables(settings.resolved_database_url)


def vanish() -> None:
    """End this process and its children at once: the database is another host's, and to finish would be to write."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread or a child that has just ended
            for child in (task / "children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
    os._exit(1)


def check_outside(settings: Settings) -> None:
    """Raise CannotServe or FilesError for settings that only later parts of the program read."""
    FileStore(settings.resolved_files_url).check()
    try:
        Outbound.of(settings).context()
    except ValueError as error:
        raise CannotServe(
            f"cannot serve: {error}; `veraicon settings` tells what outbound and outbound_ca may be"
        ) from None


def caring(queue: Queue, files: FileStore, settings: Settings, stop: threading.Event) -> None:
    take_care(queue, files, settings.keep_results_h, stop, settings.heartbeat_s, settings.low_priority_wait_s)


@contextlib.contextmanager
def background(settings: Settings, queue: Queue, stop: threading.Event) -> Iterator[None]:
    """What goes on beside the requests: webhooks, rescue of lost jobs, the end of old files."""
    files = FileStore(settings.resolved_files_url)
    with (
        thread(Sender(queue, settings).run, stop),
        thread(caring, queue, files, settings, stop),
        thread(Residence(settings.resolved_database_url).keep, stop, vanish),
        thread(keep_renewed, settings.tls_cert, tls_folder(settings), stop),
    ):
        yield


@contextlib.contextmanager
def thread(target: Callable[..., None], *arguments: object) -> Iterator[None]:
    """`target` in a thread that ends by the event among its arguments, and is waited for."""
    running = threading.Thread(target=target, args=arguments, name=target.__name__)
    running.start()
    yield
    running.join()


def tls_folder(settings: Settings) -> Path:
    return settings.data_dir / "tls"


def refuse(findings: Sequence[Finding]) -> None:
    """Raise CannotServe with every finding that stops the server; log the warnings."""
    for finding in findings:
        if finding.level == "warn":
            log.warning(finding.message, about=finding.name, remedy=finding.remedy)
    stops = [f"{finding.message}\n  -> {finding.remedy}" for finding in findings if finding.level == "stop"]
    if stops:
        raise CannotServe("cannot serve:\n" + "\n".join(stops))


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    yield stop
    stop.set()


@contextlib.contextmanager
def open_door(settings: Settings) -> Iterator[socket.socket]:
    """The listening socket. It belongs to this process, so that it outlives a crash of the HTTP process."""
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        refuse([cannot_listen(settings.host, settings.port, error)])
        raise
    with listener:
        yield listener


@contextlib.contextmanager
def door_sign(settings: Settings, listener: socket.socket) -> Iterator[None]:
    """DATA_DIR/server.json with the URL and the process id, for scripts, while the server runs."""
    sign = settings.data_dir / "server.json"
    draft = sign.with_suffix(".draft")
    draft.write_text(json.dumps({"url": url_of(settings, listener), "pid": os.getpid()}))
    draft.replace(sign)
    try:
        yield
    finally:
        sign.unlink(missing_ok=True)


def url_of(settings: Settings, listener: socket.socket) -> str:
    """How this machine itself reaches the server."""
    host = "localhost" if settings.host in ANY_ADDRESS else settings.host
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_cert else 'http'}://{name}:{listener.getsockname()[1]}"


def welcome(settings: Settings, catalog: Sequence[Endpoint], listener: socket.socket) -> str:
    """What a person wants to know once the server is up."""
    url = url_of(settings, listener)
    lines = [
        f"Veraicon serves {' and '.join(endpoint.id for endpoint in catalog)}",
        f"  playground  {url}/",
        f"  queue API   {url}/queue   (FAL_QUEUE_RUN_HOST={url.partition('://')[2]}/queue)",
        f"  data        {settings.data_dir.absolute()}",
        f"  weights     {settings.weights} on {settings.resolved_device}",
    ]
    if settings.weights == "tiny":
        lines.append("  Tiny weights are random: every picture is noise by nature. Portraits: `veraicon weights pull`")
    if settings.tls_cert is None:
        lines.append("  next: fal's own clients need HTTPS: `veraicon serve --tls`")
    else:
        if settings.tls_cert.parent == tls_folder(settings):
            lines.append(f"  clients must trust {tls_folder(settings).absolute() / 'ca.pem'} (SSL_CERT_FILE)")
        lines.append("  next: `veraicon dropin` prints what each fal client must be told")
    return "\n".join(lines)


def keep_http(settings: Settings, listener: socket.socket, stop: threading.Event) -> None:
    """Run the HTTP process, and again whenever it dies, until `stop`; then end it within its grace."""
    tries = 0
    with Child(stop, HTTP_LEAVES_S) as child:
        while not stop.is_set():
            exit_code = child.run(lambda: start_http(settings, listener))
            if stop.is_set():
                return
            log.error("the HTTP process died; it is started again", exit_code=exit_code)
            stop.wait(RESTART_S[min(tries, len(RESTART_S) - 1)])
            tries += 1


def start_http(settings: Settings, listener: socket.socket) -> subprocess.Popen[bytes]:
    """The HTTP process; it ends by itself when its standard input does, that is, when this process is gone."""
    return subprocess.Popen(
        [sys.executable, "-m", "server.http", "--fd", str(listener.fileno())],
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
        env=child_environment(settings),
        start_new_session=True,  # Ctrl+C is for this process, which stops the others in order
    )
