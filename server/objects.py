"""Objects: the folder or the bucket (obstore) below the file store, and how long it is asked before it has failed."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, RetryConfig

PAUSES: "BackoffConfig" = {
    "init_backoff": timedelta(milliseconds=50),
    "max_backoff": timedelta(milliseconds=500),
    "base": 2,
}
MOST_RETRIES, RETRY_FOR = 4, timedelta(seconds=10)
"""A store that refuses counts as gone after a second, a silent one after the 30 s that obstore gives each request:
callers have limits of their own.
"""
SECRET = re.compile(r"[0-9a-f]{32}_[\w.-]+")
"""A file's id: whoever has it may read the file, so that it stays out of messages and logs."""


class FileMissing(LookupError):
    """There is no such file, or not any more."""


class FilesUnreachable(OSError):
    """The object store refuses, or does not answer; the message is its own, without the ids of files.

    An OSError with EIO, as a disk's failure is: HTTP answers 503 to both, and a worker tries again for a while.
    """

    def __init__(self, error: BaseError) -> None:
        super().__init__(errno.EIO, in_short(error))


@dataclass(frozen=True)
class Objects:
    """Bytes by path. Every method raises FilesUnreachable, and those that read raise FileMissing."""

    store: ObjectStore

    @classmethod
    def in_folder(cls, folder: Path) -> "Objects":
        return cls(LocalStore(folder, mkdir=True))

    @classmethod
    def at(cls, url: str) -> "Objects":
        """``s3://bucket/prefix``, with endpoint and credentials from AWS_*. Raises BaseError, ValueError."""
        if url.startswith("memory:"):
            return cls(from_url(url))
        patience: RetryConfig = {"backoff": PAUSES, "max_retries": MOST_RETRIES, "retry_timeout": RETRY_FOR}
        return cls(from_url(url, retry_config=patience))

    @property
    def far(self) -> bool:
        """Whether each call is a request over a network."""
        return not isinstance(self.store, LocalStore | MemoryStore)

    def put(self, path: str, data: bytes, content_type: str) -> None:
        with told():
            obstore.put(self.store, path, data, attributes={"Content-Type": content_type})

    def size(self, path: str) -> int:
        with told():
            return obstore.head(self.store, path)["size"]

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The whole object, or its bytes from `start` to before `end`."""
        with told():
            if start is None or end is None:
                return bytes(obstore.get(self.store, path).bytes())
            return bytes(obstore.get_range(self.store, path, start=start, end=end))

    def sizes(self, folder: str | None = None) -> Iterator[tuple[str, int]]:
        """Path and size in bytes of each object below `folder`, or of all."""
        with told():
            for page in obstore.list(self.store, folder):
                yield from ((meta["path"], meta["size"]) for meta in page)

    def older_than(self, seconds: float) -> list[str]:
        """The paths of all that was written longer ago."""
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        with told():
            return [
                meta["path"] for page in obstore.list(self.store) for meta in page if meta["last_modified"] < before
            ]

    def is_older(self, path: str, seconds: float) -> bool:
        """Whether it was written longer ago. What is not there was not."""
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        try:
            with told():
                return obstore.head(self.store, path)["last_modified"] < before
        except FileMissing:
            return False

    def delete(self, paths: Sequence[str]) -> None:
        """What is not there is gone already."""
        with told():
            if self.far and paths:
                obstore.delete(self.store, paths)  # a thousand per request
                return
            for path in paths:
                with suppress(NotFoundError, FileNotFoundError):
                    obstore.delete(self.store, path)


@contextmanager
def told() -> Iterator[None]:
    """The store's many errors as the two that callers can do something about."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise FileMissing(in_short(error)) from None
    except BaseError as error:
        raise FilesUnreachable(error) from None


def in_short(error: Exception) -> str:
    """The first line of what the store said, and the code in its XML, such as NoSuchBucket; without ids of files."""
    told = SECRET.sub("<file>", str(error).partition("\nDebug source")[0])
    code = re.search(r"<Code>(\w+)</Code>", told)
    line = told.partition("<?xml")[0].partition("\n")[0].strip(" :")
    return f"{line}: {code[1]}" if code else line
