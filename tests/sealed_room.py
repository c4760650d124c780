"""A room without network, and in it what a studio does there: install from the bundle, serve, two portraits, stop.

`python -m tests.sealed_room BUNDLE FOLDER`, run in network and mount namespaces of its own (`enter`), prints JSON.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.server_process import ROOT, ServerProcess, environment

OUTSIDE = "203.0.113.1"  # reserved for documentation (RFC 5737), and the room has no way to it
TELEMETRY_S = 12
"""onnxruntime 1.31 without ORT_DISABLE_TELEMETRY first reports 5 to 10 s after its first session (decision 0032)."""
PROGRAM = "import server, pipelines, weights; print(server.__file__, pipelines.__file__, weights.__file__)"


def enter(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a room: root there, nobody outside; its only interface is a loopback of its own."""
    room = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, "-m", "tests.sealed_room"]
    return subprocess.run([*room, *command], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


class InstalledServer(ServerProcess):
    """`veraicon serve` of an installed application, started where no source lies."""

    def __init__(self, venv: Path, data_dir: Path, *words: str, **settings: object) -> None:
        super().__init__(data_dir, *words, **settings)
        self.venv = venv

    def start(self) -> None:
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                [self.venv / "bin" / "veraicon", *self.words],
                cwd=self.data_dir,
                env=sealed_environment(self.data_dir, **self.settings),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def sealed_environment(data_dir: Path, **settings: object) -> dict[str, str]:
    """Without the checkout, and as if somebody had switched the libraries' access to the network on."""
    own = environment(data_dir, **settings) | {"HF_HUB_OFFLINE": "0"}
    return {name: value for name, value in own.items() if name not in {"PYTHONPATH", "VERAICON_WEIGHTS"}}


def close_the_room() -> None:
    """Loopback up; names are asked for at an address that leads nowhere, so that asking counts as an attempt."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.NamedTemporaryFile("w", delete=False) as resolver:
        resolver.write(f"nameserver {OUTSIDE}\n")
    subprocess.run(["mount", "--bind", resolver.name, "/etc/resolv.conf"], check=True)
    Path(resolver.name).unlink()


def attempts() -> int:
    """The kernel's count, in this room, of packets and connections for which it had no route: every way out."""
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    six = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return int(dict(zip(*lines, strict=True))["OutNoRoutes"]) + int(six["Ip6OutNoRoutes"])


def run(command: list[str | Path], folder: Path) -> str:
    env = sealed_environment(folder)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def portraits(server: ServerProcess, folder: Path) -> dict[str, Any]:
    """Both endpoints through fal's own client, from another process."""
    authority = {"SSL_CERT_FILE": str(server.ca_file), "FAL_KEY": key(folder)}
    address = server.url.partition("://")[2]
    hosts = {"FAL_RUN_HOST": address, "FAL_QUEUE_RUN_HOST": f"{address}/queue"}
    command = [sys.executable, "-m", "tests.sealed_client", str(ROOT / "scripts" / "data" / "astronaut.png")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | authority | hosts, capture_output=True, text=True, timeout=90, check=False
    )
    return json.loads(done.stdout) if done.returncode == 0 else sys.exit(done.stderr + server.log)


def key(folder: Path) -> str:
    return run(
        [folder / "venv/bin/veraicon", "keys", "create", "studio", "--data-dir", folder / "data"], folder
    ).split()[-1]


def offline_processes(server: ServerProcess) -> dict[str, bool]:
    """For each process that serves, whether its libraries were told to stay offline."""
    wanted = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1"}
    family = {process: process.cmdline() for process in server.family()[1:]}
    serving = {p: words[words.index("-m") + 1] for p, words in family.items() if "-m" in words}
    return {name: wanted.items() <= p.environ().items() for p, name in serving.items()}


def main(bundle: Path, folder: Path) -> dict[str, Any]:
    close_the_room()
    began = attempts()
    report: dict[str, Any] = {"install": run(["sh", bundle.with_name("install.sh"), bundle, folder], folder.parent)}
    report["modules"] = run([folder / "venv/bin/python", "-c", PROGRAM], folder).split()
    words = ("serve", "--tls", "--weights", str(folder / "data" / "weights"))
    with InstalledServer(folder / "venv", folder / "data", *words, max_side_px=256) as server:
        ready = time.monotonic()
        report["portraits"] = portraits(server, folder)
        report["offline"] = offline_processes(server)
        time.sleep(max(0.0, ready + TELEMETRY_S - time.monotonic()))
        server.stop()
        report["exit_code"] = server.process.returncode
    audit = ("queue", "audit", "--stopped", "--data-dir", folder / "data")
    report["audit"] = run([folder / "venv/bin/veraicon", *audit], folder)
    report |= {"attempts": attempts() - began, "log": server.log}
    with suppress(OSError), socket.create_connection((OUTSIDE, 443), timeout=1):
        pass
    report["attempts_with_one_more"] = attempts() - began
    return report


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
