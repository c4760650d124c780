"""Logs: JSON lines that a machine can follow from submit to webhook, and nothing of a user's in any of them."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from server.auth import USUAL_SCOPES, key_hash, new_key
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from tests.conftest import as_data_uri
from tests.server_process import ServerProcess
from tests.wire import RUN
from tests.wire_receiver import Receiver
from tests.worker_process import eventually

PULID = "fal-ai/pulid"
PHOTO = Path(__file__).parents[2] / "scripts" / "data" / "astronaut.png"
PROMPT, NAME, PICTURE, HOOK = "Zanzibarprompt", "zanzibarname", "Zanzibarpicture", "zanzibarhook"


@dataclass(frozen=True)
class Marked:
    """What a client sent, and the words that may be in no log."""

    server: ServerProcess
    key: str
    photo: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Key {self.key}"}

    @property
    def body(self) -> dict[str, Any]:
        size = {"width": 256, "height": 256}
        pictures = [{"image_url": self.photo}]
        return {"reference_images": pictures, "prompt": PROMPT, "image_size": size, "num_inference_steps": 1, "seed": 1}

    @property
    def secrets(self) -> list[str]:
        content = self.photo.partition(",")[2]
        pieces = [content[start : start + 24] for start in range(0, len(content) - 24, len(content) // 20)]
        return [PROMPT, PICTURE, HOOK, self.key, self.key.partition(":")[2], *pieces]


@pytest.fixture(scope="module")
def marked(tmp_path_factory, astronaut_png) -> Iterator[Marked]:
    """The real catalog on tiny weights, at the most talkative level, with one user."""
    folder = tmp_path_factory.mktemp("logs")
    url = f"sqlite:///{folder / 'queue.db'}"
    create_tables(url)
    queue, key = Queue(url, lease_s=30, max_attempts=3), new_key()
    queue.keys.add(key.partition(":")[0], NAME, key_hash(key), USUAL_SCOPES)
    queue.close()
    settings = {"max_side_px": 256, "log_format": "json", "log_level": "DEBUG", "outbound": "127.0.0.0/8"}
    with ServerProcess(folder, **settings) as server:
        yield Marked(server, key, as_data_uri(astronaut_png))


@pytest.fixture(scope="module")
def astronaut_png() -> bytes:
    """A face, with a marked text chunk, as tools leave them in pictures."""
    content, text = io.BytesIO(), PngInfo()
    text.add_text("Comment", PICTURE)
    Image.open(PHOTO).save(content, "PNG", pnginfo=text)
    return content.getvalue()


@pytest.fixture(scope="module")
def served(marked) -> str:
    """The id of one request that went all the way: upload, submit, stream, result, webhook; others went wrong."""
    wire, headers = marked.server.wire, marked.headers
    with Receiver() as receiver, Receiver(body=base64.b64decode(marked.photo.partition(",")[2])) as host:
        request = wire.post(f"/{PULID}?fal_webhook={receiver.url}/{HOOK}", marked.body, headers=headers).json
        wire.get(f"/{PULID}/requests/{request['request_id']}/status/stream?logs=1", headers=headers)
        assert wire.result(request, headers=headers).status == 200
        receiver.wait()
        fetched = marked.body | {"reference_images": [{"image_url": f"{host.url}/{PICTURE}.png?{PICTURE}"}]}
        assert wire.post(f"/{PULID}", fetched, host=RUN, headers=headers).status == 200
    for wrong in (
        {"prompt": PROMPT, "seed": PROMPT},
        marked.body | {"reference_images": [{"image_url": f"data:image/png;base64,{marked.photo[-400:]}"}]},
        marked.body | {"reference_images": [{"image_url": f"http://127.0.0.1:9/{PICTURE}"}]},
        f'{{"prompt": "{PROMPT}", '.encode(),
    ):
        assert wire.post(f"/{PULID}", wrong, host=RUN, headers=headers).status in {400, 422}
    assert wire.post(f"/{PULID}", marked.body, headers={"Authorization": f"Key {marked.key}x"}).status == 401
    eventually(lambda: "webhook delivered" in marked.server.log)
    return request["request_id"]


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def test_nothing_of_a_user_is_in_any_log_even_at_debug(marked, served):
    """Prompt, pictures, their addresses, the webhook's path, the key: not even a piece of the picture's bytes."""
    log = marked.server.log
    assert served in log
    assert [secret for secret in marked.secrets if secret in log] == []


def test_every_line_has_a_time_a_level_and_its_process(marked, served):
    for line in lines(marked.server):
        assert datetime.fromisoformat(line["timestamp"]).tzinfo == UTC
        assert line["level"] in {"debug", "info", "warning", "error"}
        assert line["process"] in {"server", "http", "worker"}


def test_a_request_is_followed_through_every_process_by_its_id(marked, served):
    about = [line for line in lines(marked.server) if line.get("request_id") == served]
    assert {line["process"] for line in about} == {"server", "http", "worker"}
    assert {"request", "job done", "webhook delivered"} <= {line["event"] for line in about}
    assert [line for line in about if line["process"] == "http" and line["route"].endswith("/status/stream")]


def test_only_a_real_id_is_taken_from_a_path(marked, served):
    """What a client writes into a path is no text for our log."""
    for path in ("/requests/zanzibarpath/status", f"/requests/{served}-zanzibarpath/status"):
        marked.server.wire.get(f"/{PULID}{path}", headers=marked.headers)
    assert "zanzibarpath" not in marked.server.log
