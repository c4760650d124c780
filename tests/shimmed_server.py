"""ShimmedServer: a real server on a disk whose power can be cut, that can turn read-only, and by a clock that jumps."""

import shutil
from pathlib import Path

from tests.server_process import ROOT, ServerProcess

SHIMS = ROOT / "tests" / "shims"


class ShimmedServer(ServerProcess):
    """See tests/shims/sitecustomize.py. The shim's folder is beside the data folder."""

    def __init__(self, data_dir: Path, *words: str, **settings: object) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(data_dir, *words, **settings)
        self.shim = data_dir.with_name(f"{data_dir.name}-shim")
        (self.shim / "durable").mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"PYTHONPATH": f"{SHIMS}:{self.root}", "SHIM": str(self.shim)}

    def turn_readonly(self, readonly: bool) -> None:
        """Whether SQLite's writes fail."""
        if readonly:
            (self.shim / "readonly").touch()
        else:
            (self.shim / "readonly").unlink()

    def hang(self, hangs: bool) -> None:
        """Whether Python's own files, such as uploads, get to the disk."""
        if hangs:
            (self.shim / "hangs").touch()
        else:
            (self.shim / "hangs").unlink()

    @property
    def hanging(self) -> int:
        """How many files have been waiting for the disk."""
        return len(list(self.shim.glob("hanging-*")))

    def set_clock(self, wrong_by_s: float) -> None:
        """Let the wall clock of every process jump."""
        draft = self.shim / "clock-draft"
        draft.write_text(str(wrong_by_s))
        draft.replace(self.shim / "clock")

    def unsynced(self) -> bool:
        """Whether the page cache holds anything of the database that the disk does not."""
        assert any(self.durable), f"the shim is not in use: can ctypes reach this Python's SQLite?\n{self.log}"
        return any(
            durable.read_bytes() != (self.data_dir / name).read_bytes() for name, durable in self.durable.items()
        )

    @property
    def durable(self) -> dict[str, Path]:
        """The database and its log as the disk has them."""
        return {path.name: path for path in (self.shim / "durable").glob("queue.db*") if "journal" not in path.name}

    def cut_power(self) -> bool:
        """Kill everything at once, and lose what was not synced of the database. Returns whether there was anything."""
        self.kill()
        lost = self.unsynced()
        for name, durable in self.durable.items():
            shutil.copyfile(durable, self.data_dir / name)
        (self.data_dir / "queue.db-shm").unlink()
        return lost
