"""The HTTP application in this process, over a real queue and real files; no worker runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastapi.testclient import TestClient

from pipelines.endpoint import Endpoint
from server.app import create_app
from server.files import FileStore
from server.queue.migrations import create_tables
from server.queue.opening import open_queue
from server.queue.queue import Queue
from server.settings import read_settings
from tests.pipelines.published import CATALOG

LOCAL = "http://localhost:8000"


@contextmanager
def running_app(
    folder: Path, catalog: Sequence[Endpoint] = CATALOG, **settings: object
) -> Iterator[tuple[TestClient, Queue]]:
    """A client that speaks as ``localhost:8000``, and the queue behind the application."""
    read = read_settings(data_dir=folder, weights="tiny", **settings)
    create_tables(read.resolved_database_url)
    with open_queue(read) as queue:
        app = create_app(read, catalog, queue, FileStore(read.resolved_files_url))
        with TestClient(app, base_url=LOCAL, follow_redirects=False) as client:
            yield client, queue
