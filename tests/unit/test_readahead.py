"""Checkpoints are brought into the kernel's cache while models are built; and which files that are."""

import ctypes
import mmap
import os
import time
from pathlib import Path

from pipelines.catalog import CATALOG
from server.worker.readahead import once, reading_ahead
from weights.manifest import read_manifest
from weights.prepared import served
from weights.store import tiny_root

SIZE = 32 * 1024 * 1024


def cached(file: Path) -> float:
    """Which part of the file is in the kernel's cache (mincore(2))."""
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapped:
        pages = (ctypes.c_ubyte * (len(mapped) // mmap.PAGESIZE))()
        address = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(address), ctypes.c_size_t(len(mapped)), pages)
        del address
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(page & 1 for page in pages) / len(pages)


def evict(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_the_files_are_in_the_cache_before_anybody_reads_them(tmp_path):
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_bytes(os.urandom(SIZE))
        evict(file)
    assert max(map(cached, files)) < 0.5
    with reading_ahead([*files, tmp_path / "missing"]):
        limit = time.monotonic() + 30
        while min(map(cached, files)) < 1 and time.monotonic() < limit:
            time.sleep(0.02)
    assert [cached(file) for file in files] == [1, 1]


def test_links_to_one_file_are_read_once(tmp_path):
    (tmp_path / "one").write_bytes(b"x")
    (tmp_path / "link").hardlink_to(tmp_path / "one")
    assert once([tmp_path / "one", tmp_path / "link", tmp_path / "missing"]) == [tmp_path / "one"]


def test_what_the_server_reads_at_its_start_holds_no_pickle_and_no_source_of_prepared_files():
    names = [name for endpoint in CATALOG for name in endpoint.checkpoints]
    manifest = read_manifest()
    targets = {file.relative_to(tiny_root()).as_posix() for file in served(names, tiny_root(), manifest)}
    prepared = {file.target for name in names for file in manifest[name].files if file.prepared}
    assert not targets & (prepared - {file.prepared for name in names for file in manifest[name].files})
    assert {Path(target).suffix for target in targets} == {".safetensors", ".onnx"}
    assert "antelopev2/glintr100.onnx" in targets
