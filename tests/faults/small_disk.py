"""SmallDiskSite: its pictures lie on a disk of their own that a test can fill, in the server's mount namespace."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.faults.site import FaultSite
from tests.server_process import ROOT, ServerProcess

SIZE_MB = 96
"""Enough to be ready with: the server wants 64 MB free."""
MOUNT = f'mount -t tmpfs -o size={SIZE_MB}m none "$0" && exec "$@"'
MOUNTED_S = 10.0
BLOCK = 4096


class SmallDiskServer(ServerProcess):
    """Only it and its children see the disk; this process reaches it through /proc."""

    @property
    def command(self) -> list[str]:
        return ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, str(self.mount_point), *super().command]

    @property
    def mount_point(self) -> Path:
        return self.data_dir / "files"

    @property
    def disk(self) -> Path:
        """What the server sees there."""
        return Path(f"/proc/{self.process.pid}/root{self.mount_point}")

    def start(self) -> None:
        self.mount_point.mkdir(exist_ok=True)
        super().start()
        limit = time.monotonic() + MOUNTED_S
        while not self.disk.is_mount():
            told = f"{self.log}\nThis test needs namespaces: `unshare --map-root-user --mount`"
            assert self.process.poll() is None and time.monotonic() < limit, told
            time.sleep(0.02)


class SmallDiskSite(FaultSite):
    """What goes on in the server is as everywhere else; only its files are where this process does not see them."""

    process = SmallDiskServer
    server: SmallDiskServer

    def fill_disk(self) -> None:
        """To the last block."""
        with self.ballast.open("wb", buffering=0) as ballast, suppress(OSError):
            while ballast.write(bytes(BLOCK)):
                continue

    def free_disk(self) -> None:
        self.ballast.unlink()

    @property
    def ballast(self) -> Path:
        return self.server.disk / "ballast"

    def contradictions(self, *, quiet: bool = True) -> str:
        """What `veraicon queue audit` says; nothing when all is well."""
        done = veraicon_beside(self.server, "queue", "audit", *(["--stopped"] if quiet else []))
        return done.stdout + done.stderr if done.returncode else ""


def veraicon_beside(server: ServerProcess, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one command in a server's mount namespace, where its disk is."""
    beside = ["nsenter", f"--target={server.process.pid}", "--user", "--mount", "--preserve-credentials"]
    return subprocess.run(
        [*beside, sys.executable, "-m", "server.cli", *words],
        cwd=ROOT,
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
    )
