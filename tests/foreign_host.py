"""Another host: what `veraicon` says where the kernel has another boot id, and the machine another name."""

import subprocess
import sys
from pathlib import Path

from tests.server_process import ROOT, environment

BOOT_ID = "/proc/sys/kernel/random/boot_id"
ELSEWHERE = "00000000-0000-4000-8000-000000000000"


def on_another_host(folder: Path, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, over a data folder that this host may be serving."""
    other = folder / "boot_id"
    other.write_text(f"{ELSEWHERE}\n")
    script = f'mount --bind "{other}" {BOOT_ID} && hostname render-07 && exec "$@"'
    room = ["unshare", "--map-root-user", "--mount", "--uts", "sh", "-c", script, "sh"]
    return subprocess.run(
        [*room, sys.executable, "-m", "server.cli", *words],
        cwd=ROOT,
        env=environment(folder, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
