"""Uploads whose server dies while it stores them, or whose answer is lost: the client sends them again."""

from collections.abc import Iterator

import pytest

from server.queue.ledger import WRITTEN_WITHIN_S
from tests.shimmed_server import ShimmedServer
from tests.wire import Answer, Wire
from tests.wire_checks import assert_is_request_error
from tests.worker_process import eventually

REST = "rest.fal.ai"
PNG = {"content_type": "image/png", "file_name": "face.png"}
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(tmp_path) -> Iterator[ShimmedServer]:
    with ShimmedServer(tmp_path / "data", "api") as server:
        yield server


class Upload:
    """One file, sent at once or in a part, as fal's clients do."""

    def __init__(self, wire: Wire, *, parts: bool) -> None:
        self.parts = parts
        begun = wire.post("/storage/upload/initiate-multipart" if parts else "/storage/upload/initiate", PNG, host=REST)
        self.path, _, self.query = begun.json["upload_url"].partition(REST)[2].partition("?")

    def last(self, content: bytes) -> tuple[str, str, object]:
        """The request that stores the file."""
        if self.parts:
            return "POST", f"{self.path}/complete?{self.query}", {"parts": [{"partNumber": 1}]}
        return "PUT", f"{self.path}?{self.query}", content

    def send(self, wire: Wire, content: bytes = CONTENT) -> Answer:
        method, path, body = self.last(content)
        return wire.ask(method, path, body, host=REST)

    def stored(self, wire: Wire) -> Answer:
        return wire.get(self.path, host=REST)


def test_an_upload_whose_server_was_killed_while_it_stored_it_can_be_sent_again(server):
    """Between the entry in the ledger and the bytes: soon, for the writer may be slow and not dead; and then once."""
    uploads = [Upload(server.wire, parts=parts) for parts in (False, True)]
    server.wire.put(f"{uploads[1].path}/1?{uploads[1].query}", CONTENT, host=REST)
    server.hang(True)
    lines = [server.wire.connect() for _ in uploads]
    for line, upload in zip(lines, uploads, strict=True):
        method, path, body = upload.last(CONTENT)
        server.wire.send(line, method, path, body, host=REST)
    eventually(lambda: server.hanging == len(uploads))
    for upload in uploads:
        assert_is_request_error(upload.send(server.wire), 409, "upload_under_way")
    server.kill()
    for line in lines:
        line.close()
    server.hang(False)
    server.start()
    server.wait_until_ready()

    for upload in uploads:
        assert upload.stored(server.wire).status == 404
        assert_is_request_error(upload.send(server.wire), 409, "upload_under_way")
    server.set_clock(WRITTEN_WITHIN_S + 1)
    for upload in uploads:
        eventually(lambda upload=upload: upload.send(server.wire).status == 200, 10)
        assert upload.stored(server.wire).body == CONTENT
        assert upload.send(server.wire).status == 200, "the answer may be lost, too"
    assert_is_request_error(uploads[0].send(server.wire, b"other"), 409, "upload_complete")
    assert uploads[0].stored(server.wire).body == CONTENT
