"""What a test does to a server from below: Python imports this first in each of its processes (PYTHONPATH).

SHIM names a folder. SQLite's file system is ours there: what each fsync has made durable is copied into ``durable/``,
so that a test can cut the power, and writes fail while the file ``readonly`` is there. ``clock`` holds seconds by which
the wall clock is wrong. While the file ``hangs`` is there, Python's own files do not get to the disk.
"""

import ctypes
import fcntl
import os
import time
from pathlib import Path

FOLDER = Path(os.environ["SHIM"])
OK, READONLY = 0, 8
PATIENCE_S = 0.05

Open = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
)
Sync = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
Size = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64))
Move = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)


class Methods(ctypes.Structure):
    """sqlite3_io_methods (sqlite.org/c3ref/io_methods.html), version 3."""

    _fields_ = [("version", ctypes.c_int), ("close", ctypes.c_void_p), ("read", Move), ("write", Move),
                ("truncate", ctypes.c_void_p), ("sync", Sync), ("size", Size),
                ("others", ctypes.c_void_p * 12)]  # fmt: skip


class File(ctypes.Structure):
    _fields_ = [("methods", ctypes.POINTER(Methods))]


class FileSystem(ctypes.Structure):
    """sqlite3_vfs (sqlite.org/c3ref/vfs.html), version 3."""

    _fields_ = [("version", ctypes.c_int), ("file_size", ctypes.c_int), ("longest", ctypes.c_int),
                ("next", ctypes.c_void_p), ("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("open", Open),
                ("others", ctypes.c_void_p * 15)]  # fmt: skip


class Disk:
    """Below SQLite and above the real file system. Keeps alive what C code points to."""

    def __init__(self) -> None:
        import _sqlite3

        library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        library.sqlite3_vfs_find.restype = ctypes.POINTER(FileSystem)
        self.real = library.sqlite3_vfs_find(None).contents
        self.ours = FileSystem.from_buffer_copy(self.real)
        self.name, self.open = b"shim", Open(self.opened)
        self.ours.name, self.ours.open = self.name, self.open
        self.sync, self.write = Sync(self.synced), Move(self.written)
        self.methods: dict[int, Methods] = {}
        self.paths: dict[int, Path] = {}
        self.originals: dict[int, Methods] = {}
        library.sqlite3_vfs_register(ctypes.byref(self.ours), 1)

    def opened(self, system, name, file, flags, told):
        result = self.real.open(ctypes.addressof(self.real), name, file, flags, told)
        if result == OK and name:
            pointer = ctypes.cast(file, ctypes.POINTER(File)).contents
            known = ctypes.addressof(pointer.methods.contents)
            if known not in self.methods:
                self.methods[known] = Methods.from_buffer_copy(pointer.methods.contents)
                self.methods[known].sync, self.methods[known].write = self.sync, self.write
            self.originals[file] = Methods.from_address(known)
            self.paths[file] = Path(os.fsdecode(ctypes.string_at(name)))
            pointer.methods = ctypes.pointer(self.methods[known])
        return result

    def written(self, file, content, length, at):
        if (FOLDER / "readonly").exists():
            return READONLY
        return self.originals[file].write(file, content, length, at)

    def synced(self, file, flags):
        """Read through SQLite's own descriptor: to open and close another one would drop the process's locks."""
        original, size = self.originals[file], ctypes.c_int64()
        with (FOLDER / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = original.sync(file, flags)
            original.size(file, ctypes.byref(size))
            content = ctypes.create_string_buffer(max(size.value, 1))
            if size.value:
                original.read(file, content, size.value, 0)
            draft = FOLDER / "draft"
            draft.write_bytes(content.raw[: size.value])
            draft.replace(FOLDER / "durable" / self.paths[file].name)
        return result


class Clock:
    """time.time, wrong by what the file says."""

    def __init__(self) -> None:
        self.real, self.looked_at, self.wrong_by = time.time, 0.0, 0.0

    def __call__(self) -> float:
        if time.monotonic() - self.looked_at > PATIENCE_S:
            file, self.looked_at = FOLDER / "clock", time.monotonic()
            self.wrong_by = float(file.read_text() or 0) if file.exists() else 0.0
        return self.real() + self.wrong_by


class Fsync:
    """os.fsync, which waits as long as the disk hangs; each that does leaves a mark."""

    def __init__(self) -> None:
        self.real = os.fsync

    def __call__(self, descriptor: int) -> None:
        while (FOLDER / "hangs").exists():
            (FOLDER / f"hanging-{os.getpid()}-{descriptor}").touch()
            time.sleep(PATIENCE_S)
        self.real(descriptor)


time.time = Clock()
os.fsync = Fsync()
DISK = Disk()
