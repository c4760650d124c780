"""Both sides of an air gap, for the tests: a wheelhouse of small wheels, and the room in which it is installed."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sealed_room import enter
from tests.server_process import ROOT, veraicon
from tests.small_wheels import write_lists


@dataclass(frozen=True)
class Sealed:
    """An application that was installed from a bundle without network, and what its room reported."""

    bundle: Path
    folder: Path
    report: dict[str, Any]


def fill_wheelhouse(folder: Path, wheels: Path, kind: str = "cpu") -> subprocess.CompletedProcess[str]:
    """`make wheelhouse` over the lists in `wheels`, which is all that pip may look at."""
    only = {
        "LISTS": str(wheels / "lists"),
        "PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }
    command = ["bash", str(ROOT / "scripts" / "wheelhouse.sh"), kind, str(folder)]
    return subprocess.run(command, env=os.environ | only, capture_output=True, text=True, timeout=120, check=False)


def make_wheelhouse(folder: Path) -> Path:
    write_lists(folder / "wheels")
    done = fill_wheelhouse(folder / "wheelhouse", folder / "wheels")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "wheelhouse"


def seal(wheelhouse: Path, folder: Path) -> Sealed:
    """Bundle on this side; install, serve and stop on the other."""
    disk, studio = folder / "disk", folder / "studio"
    for made in (disk, studio):
        made.mkdir()
    bundle = disk / "veraicon.bundle"
    words = ("bundle", "--all", str(bundle), "--wheelhouse", str(wheelhouse), "--weights", "tiny", "--split", "10M")
    done = veraicon(folder, *words)
    assert done.returncode == 0, done.stderr
    room = enter(str(bundle), str(studio))
    assert room.returncode == 0, f"{room.stderr}\nThis test needs namespaces: `unshare --map-root-user --net --mount`"
    return Sealed(bundle, studio, json.loads(room.stdout) | {"bundle": done.stdout})
