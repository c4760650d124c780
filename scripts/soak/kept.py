"""Kept: a process that is started again whenever it ends, as systemd or Kubernetes would."""

import random
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

LOOK_S, RESTART_S = 0.1, 0.5
LEAVES_S = 60.0
"""After SIGTERM or the loss of its parent: more than a worker's drain and its grace."""


@dataclass(frozen=True)
class Program:
    """What is run. `user`: who runs it, if not this process's own; `leave`: the signal that ends it in order."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    user: str | None = None
    leave: signal.Signals = signal.SIGTERM


@dataclass
class Kept:
    """A running program. Kills are for any thread; only `keep` starts it.

    Args:
        process: the current run.
        starts: how often it was started.
        orphans: processes that outlived a kill of their parent alone, and should not for long.
    """

    program: Program
    process: subprocess.Popen[bytes]
    starts: int = 1
    orphans: list[psutil.Process] = field(default_factory=list)

    def keep(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_S):
            if self.process.poll() is not None and not stop.wait(RESTART_S):
                self.process = start(self.program)
                self.starts += 1

    @property
    def is_up(self) -> bool:
        return self.process.poll() is None

    def children(self, module: str = "") -> list[psutil.Process]:
        """Processes started by this one whose command line names `module`."""
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in found if runs(child, module)]
        return []

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process alone. Returns whether it was up."""
        was_up = self.is_up
        self.process.send_signal(number)
        return was_up

    def kill_all(self) -> bool:
        """kill -9 of the process and of what it started. Returns whether it was up."""
        children, was_up = self.children(), self.is_up
        self.process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        return was_up

    def kill_alone(self) -> bool:
        """kill -9 of the process alone: what it started must notice and leave. Returns whether it was up."""
        self.orphans += self.children()
        return self.signal(signal.SIGKILL)

    def kill_child(self, module: str, chance: random.Random) -> bool:
        """kill -9 of one process that runs `module`. Returns whether there was one."""
        with suppress(psutil.NoSuchProcess, IndexError):
            chance.choice(self.children(module)).kill()
            return True
        return False

    def freeze_child(self, module: str, seconds: float, chance: random.Random) -> bool:
        """SIGSTOP to one process that runs `module`, and SIGCONT later. Returns whether there was one."""
        with suppress(psutil.NoSuchProcess, IndexError):
            child = chance.choice(self.children(module))
            child.suspend()
            threading.Timer(seconds, thaw, (child,)).start()
            return True
        return False


def thaw(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()


def runs(process: psutil.Process, module: str) -> bool:
    try:
        return not module or module in process.cmdline()
    except psutil.Error:
        return False


def start(program: Program) -> subprocess.Popen[bytes]:
    with program.log.open("ab") as output:
        return subprocess.Popen(
            program.command,
            env=dict(program.environment),
            user=program.user,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextmanager
def keeping(*programs: Program) -> Iterator[list[Kept]]:
    """The programs, kept until the end of the block; then stopped in order, and killed if that does not help."""
    stop = threading.Event()
    kept = [Kept(program, start(program)) for program in programs]
    threads = [threading.Thread(target=one.keep, args=(stop,), name=one.program.name) for one in kept]
    for thread in threads:
        thread.start()
    try:
        yield kept
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for one in kept:
            one.signal(one.program.leave)
        for one in kept:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(LEAVES_S)
            one.kill_all()
            one.process.wait()


def remaining(kept: Sequence[Kept], within_s: float = LEAVES_S) -> list[str]:
    """A sentence for each process that is still there `within_s` seconds after its parent; these are killed."""
    orphans = [(one.program.name, orphan) for one in kept for orphan in one.orphans]
    _, alive = psutil.wait_procs([orphan for _, orphan in orphans], within_s)
    for orphan in alive:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()
    return [f"process {orphan.pid} of {name} outlived its parent" for name, orphan in orphans if orphan in alive]
