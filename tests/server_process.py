"""ServerProcess: a real `veraicon serve` (or `veraicon api`) on a free loopback port, over a data folder of its own."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import psutil

from tests.wire import Wire

ROOT = Path(__file__).parent.parent
START_S = 120.0
STOP_S = 20.0
COMPILED = ROOT / ".pytest_cache" / "compiled"


class NotStarted(Exception):
    """The server ended, or was not ready in time; the message holds the end of its output."""


class ServerProcess:
    """A server as its users start it. Everything it prints is in `log`.

    Args:
        data_dir: queue, pictures and keys; a second ServerProcess on the same folder is a restart.
        words: command and options after `veraicon`.
        settings: VERAICON_* without the prefix, e.g. ``drain_s=2``.
    """

    root = ROOT
    """The project that is served."""

    def __init__(self, data_dir: Path, *words: str, **settings: object) -> None:
        self.data_dir = data_dir
        self.words = words or ("serve",)
        self.probe = "/health" if "api" in self.words else "/ready"  # an API alone has no worker to be ready
        self.settings = settings
        self.log_file = data_dir / "output.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        self.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        (self.data_dir / "server.json").unlink(missing_ok=True)
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.root,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "server.cli", *self.words]

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.data_dir, **self.settings) | {"PYTHONPATH": str(self.root)}

    def wait_until_ready(self, limit_s: float = START_S) -> None:
        limit = time.monotonic() + limit_s
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > limit:
                self.kill()
                raise NotStarted(self.log[-3000:])
            time.sleep(0.05)

    def is_ready(self) -> bool:
        marker = self.data_dir / "server.json"
        try:
            return marker.exists() and self.wire.get(self.probe, host=None).status == 200
        except (OSError, json.JSONDecodeError):
            return False

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def url(self) -> str:
        return json.loads((self.data_dir / "server.json").read_text())["url"]

    @property
    def ca_file(self) -> Path:
        return self.data_dir / "tls" / "ca.pem"

    @property
    def wire(self) -> Wire:
        scheme, _, address = self.url.partition("://")
        return Wire(address, ssl.create_default_context(cafile=self.ca_file) if scheme == "https" else None)

    def stop(self) -> None:
        """SIGTERM, as an operator stops it; what does not end is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9 of the server and of every process it has started."""
        for process in self.family():
            process.kill()
        self.process.wait()

    def family(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def environment(data_dir: Path, **settings: object) -> dict[str, str]:
    """This process's environment with the settings of a small, loopback-only server and nobody else's VERAICON_*.

    Python keeps what it compiles, as it does for users: without, every start would compile every library again.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VERAICON_")}
    defaults = {"data_dir": data_dir, "port": 0, "weights": "tiny"}
    own = {f"VERAICON_{name.upper()}": str(value) for name, value in (defaults | settings).items()}
    python = {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(COMPILED), "PYTHONDONTWRITEBYTECODE": ""}
    return inherited | own | python | {"OMP_NUM_THREADS": "1"}


def veraicon(data_dir: Path, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run one command of the command line tool to its end."""
    return module(data_dir, "server.cli", *words, **settings)


def module(data_dir: Path, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """`python -m` these words, to its end."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment(data_dir, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
