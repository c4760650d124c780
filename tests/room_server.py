"""RoomServer: a real server in a mount namespace, whose data folder is a small disk of its own (tmpfs)."""

from pathlib import Path

from tests.server_process import ServerProcess


class RoomServer(ServerProcess):
    """Once it is started, `data_dir` is its disk as this process sees it; that ends with the server.

    Args:
        size_mb: of the disk.
    """

    def __init__(self, folder: Path, *words: str, size_mb: int, **settings: object) -> None:
        self.room = folder / "room"
        self.room.mkdir()
        super().__init__(folder, *words, **settings)
        self.size_mb = size_mb

    @property
    def command(self) -> list[str]:
        script = f'mount -t tmpfs -o size={self.size_mb}m none "$0" && exec "$@"'
        return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(self.room), *super().command]

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"VERAICON_DATA_DIR": str(self.room)}

    def start(self) -> None:
        super().start()
        self.data_dir = Path(f"/proc/{self.process.pid}/root{self.room}")

    def fill_disk(self) -> Path:
        """To the last byte. Returns the file that does so."""
        filler = self.data_dir / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                return filler
