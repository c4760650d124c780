"""Upload a file of the given size in MiB, all of its bytes 7."""

import tempfile
from pathlib import Path

import fal_client
from client import answer, given

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "seven.txt")
    file.write_bytes(bytes([7]) * (given["mib"] * 2**20))
    answer(url=fal_client.upload_file(file))
