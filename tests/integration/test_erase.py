"""Deletion: of a request, all that was kept is gone, and nothing that others need (docs/decisions/0025-deletion.md)."""

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from fastapi.testclient import TestClient
from PIL import Image

from pipelines.endpoint import Picture
from server.auth import USUAL_SCOPES, key_hash, new_key
from server.caretaker import take_care
from server.cli.requests import seconds_of
from server.files import FileStore
from server.queue.job import LogLine
from server.queue.queue import Queue
from server.settings import read_settings
from server.worker.assignment import Assignment
from server.worker.stages import Stages
from tests.app import running_app
from tests.conftest import as_data_uri
from tests.jobs import claim_one, put
from tests.pipelines.gate import GATE
from tests.server_process import veraicon
from tests.wire import Wire

HOOK = "http://127.0.0.1:9/hook"


def url_of(request: dict[str, Any]) -> str:
    return request["response_url"]


def delete(wire: Wire, request: dict[str, Any]):
    return wire.follow(url_of(request), "DELETE")


def stored(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "files").rglob("*_*") if file.is_file())


def eventually(holds: Callable[[], bool], limit_s: float = 30.0) -> None:
    limit = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.05)


def test_a_deleted_request_leaves_nothing(painting_server, pulid_input):
    """Status, result, logs, stream and pictures are gone for the client, the bytes from the disk."""
    wire = painting_server.wire
    before = stored(painting_server.data_dir)
    photo = io.BytesIO()
    Image.new("RGB", (97, 65), (1, 2, 3)).save(photo, "PNG")  # nobody else's: shared bytes would rightly stay
    faces = [{"image_url": as_data_uri(photo.getvalue())}]
    request = wire.submit("fal-ai/pulid", pulid_input | {"reference_images": faces})
    wire.wait_for(request, "COMPLETED")
    pictures = [image["url"] for image in wire.result(request).json["images"]]
    during = stored(painting_server.data_dir)

    gone = delete(wire, request)
    assert (gone.status, gone.json) == (200, {"status": "DELETED"})
    assert gone.headers["x-fal-request-id"] == request["request_id"]
    for tail in ("", "/response", "/status", "/status/stream"):
        assert wire.follow(url_of(request) + tail).status == 404
    assert delete(wire, request).status == 404
    assert len(set(during) - set(before)) == 1 + len(pictures)
    assert [wire.follow(picture).status for picture in pictures] == [404] * len(pictures)
    assert stored(painting_server.data_dir) == before


def test_a_running_request_is_stopped_and_its_picture_never_appears(wire, gate, painting_server):
    before = stored(painting_server.data_dir)
    request = gate.run()
    assert delete(wire, request).json == {"status": "DELETED"}
    gate.submitted.clear()

    gate.wait_for_trace("stopped", 1)
    assert wire.status(request).status == 404
    assert stored(painting_server.data_dir) == before


def test_whoever_waits_on_the_line_is_told(wire, gate, painting_server):
    """A direct run whose request the operator deletes ends with an error in fal's shape, not with a cut line."""
    connection = wire.connect()
    wire.send(connection, "POST", f"/{gate.endpoint}", gate.body, host="fal.run")
    gate.wait_for_trace("started", 1)
    listed = veraicon(painting_server.data_dir, "requests", "list", "--limit", "1")
    request_id = listed.stdout.splitlines()[1].split()[0]
    assert "IN_PROGRESS" in listed.stdout
    assert veraicon(painting_server.data_dir, "requests", "delete", request_id).returncode == 0

    response = connection.getresponse()
    assert response.status in {404, 499}
    assert b"detail" in response.read()
    connection.close()


@pytest.fixture
def app(tmp_path: Path):
    """A server without a worker, so that the test decides when a request is finished; and the folder of its files."""
    with running_app(tmp_path) as (client, queue):
        yield client, queue, tmp_path


def submitted(client: TestClient, body: dict[str, Any]) -> str:
    return client.post("/queue/fal-ai/pulid", json=body).json()["request_id"]


def test_a_photo_that_another_request_needs_stays(app, pulid_input):
    """The same bytes are kept once, until the last request that names them is deleted."""
    client, _, folder = app
    first, second = submitted(client, pulid_input), submitted(client, pulid_input)
    [photo] = stored(folder)

    client.delete(f"/queue/fal-ai/pulid/requests/{first}")
    assert stored(folder) == [photo]
    client.delete(f"/queue/fal-ai/pulid/requests/{second}")
    assert stored(folder) == []


def test_rows_logs_and_webhooks_are_gone_on_both_databases(queue: Queue):
    """And a request beside it keeps its own."""
    gone, stays = (put(queue, webhook=HOOK, batch_key="alike") for _ in range(2))
    for job in queue.claim("w1", ["test/a"], most=2):
        queue.log(job, LogLine(1.0, "Step 1/4"))
        queue.finish(job, 200, {"image": {"url": f"file:{'ab' * 16}_{job.seq}.png"}})
    deleted: list[str] = []

    assert sum(queue.erase([gone.id], deleted.extend)) == 1
    queue.deliveries.add(gone.id, 200, None, 0.1)  # its webhook was just being sent
    assert deleted == [f"{'ab' * 16}_{gone.seq}.png"]
    assert queue.get(gone.id) is None
    assert queue.logs(gone.id) == []
    assert queue.deliveries.of(gone.id) == []
    assert [hook.job_id for hook in queue.due_webhooks()] == [stays.id]
    assert len(queue.logs(stays.id)) == 1


def test_the_worker_of_a_deleted_job_can_change_nothing(queue: Queue):
    """Its heartbeat says that the job is not its own any more, so it stops after its step."""
    put(queue)
    job = claim_one(queue)
    list(queue.erase([job.id], lambda files: None))

    assert not queue.heartbeat(job).owned
    assert not queue.look(job).owned
    assert not queue.finish(job, 200, {})
    assert queue.get(job.id) is None


def test_a_picture_that_is_saved_too_late_is_thrown_away(queue: Queue, tmp_path):
    """The job was deleted between its last step and its result."""
    queue.put(GATE.id, {"folder": str(tmp_path)}, owner="me", base_url="http://host")
    [job] = queue.claim("w1", [GATE.id])
    files = FileStore(f"file://{tmp_path / 'files'}")
    stages = Stages(read_settings(data_dir=tmp_path, weights="tiny"), queue, files, {})
    list(queue.erase([job.id], files.delete))

    stages.save(Assignment(job, GATE), [Picture(np.zeros((8, 8, 3), np.uint8), 1)])
    assert stored(tmp_path) == []


def test_what_was_given_in_a_request_but_made_by_another_is_not_its_to_delete(queue: Queue):
    """A row that names someone else's file takes nothing with it."""
    theirs = put(queue)
    made = f"{'cd' * 16}_result.png"
    queue.finish(claim_one(queue), 200, {"image": {"url": f"file:{made}"}})
    mine = queue.put("test/a", {"image_url": f"file:{made}"}, owner="me", base_url="http://host")
    deleted: list[str] = []
    list(queue.erase([mine.id], deleted.extend))

    assert deleted == []
    list(queue.erase([theirs.id], deleted.extend))
    assert deleted == [made]


# The operator's commands


def test_an_operator_deletes_all_that_one_owner_left(tmp_path, pulid_input):
    """Requests, photos and uploads of that name, and of nobody else."""
    with running_app(tmp_path) as (client, queue):
        heads = {name: header(queue, name) for name in ("anna", "ben")}
        for number, head in enumerate(heads.values()):
            client.post("/queue/fal-ai/pulid", json=pulid_input | {"seed": number}, headers=head)
            begun = client.post("/storage/upload/initiate", json={"content_type": "image/png"}, headers=head).json()
            client.put(begun["upload_url"].removeprefix("http://localhost:8000"), content=b"a face")
        before = stored(tmp_path)
        refused = veraicon(tmp_path, "requests", "delete", "--owner", "anna")
        done = veraicon(tmp_path, "requests", "delete", "--owner", "anna", "--yes")

        assert refused.returncode == 1, "without --yes somebody must be asked"
        assert done.returncode == 0, done.stderr
        assert "1 requests and 1 uploads are deleted" in done.stdout
        assert [entry.owner for entry in queue.register()] == ["ben"]
        assert len(before) == 3  # the photo, which both sent, and two uploads
        assert len(stored(tmp_path)) == 2


def header(queue: Queue, name: str) -> dict[str, str]:
    key = new_key()
    queue.keys.add(key.partition(":")[0], name, key_hash(key), USUAL_SCOPES)
    return {"Authorization": f"Key {key}"}


def test_only_what_finished_long_ago_is_old(queue: Queue):
    put(queue)
    waiting = put(queue)
    done = claim_one(queue)
    queue.finish(done, 200, {})

    assert [entry.id for entry in queue.register(finished_for_s=0.0)] == [done.id]
    assert queue.register(finished_for_s=3600.0) == []
    assert {entry.id for entry in queue.register("me")} == {done.id, waiting.id}
    assert queue.register("nobody") == []


def test_the_operator_sees_no_prompt(tmp_path):
    with running_app(tmp_path) as (_, queue):
        job = queue.put("fal-ai/pulid", {"prompt": "sekret"}, owner="anna", base_url="http://host")
        shown = veraicon(tmp_path, "requests", "show", job.id)
        listed = veraicon(tmp_path, "requests", "list", "--owner", "anna")

    assert job.id in listed.stdout
    assert "IN_QUEUE" in shown.stdout
    assert "anna" in shown.stdout
    assert "sekret" not in shown.stdout + listed.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [(["delete", "x", "--owner", "anna"], "either an ID"), (["delete", "nothing"], "There is no request nothing")],
)
def test_a_command_that_names_nothing_deletes_nothing(tmp_path, words, says):
    done = veraicon(tmp_path, "requests", *words)

    assert done.returncode != 0
    assert says in " ".join((done.stdout + done.stderr).replace("│", " ").split())


@pytest.mark.parametrize(("age", "seconds"), [("90m", 5400), ("24h", 86_400), ("7d", 604_800)])
def test_an_age_is_minutes_hours_or_days(age, seconds):
    assert seconds_of(age) == seconds


@pytest.mark.parametrize("age", ["", "soon", "-1h", "1.5h", "24", "1w"])
def test_what_is_no_age_is_refused(age):
    with pytest.raises(typer.BadParameter, match="90m, 24h or 7d"):
        seconds_of(age)


# The end of keep_results_h


def test_files_go_with_their_requests_when_their_time_is_over(tmp_path, pulid_input):
    """The stated time is kept by the clock, without anybody's asking."""
    with running_app(tmp_path, keep_results_h=1.5 / 3600) as (client, queue):
        request_id = submitted(client, pulid_input | {"num_images": 0})
        assert queue.get(request_id).state == "COMPLETED"
        kept = submitted(client, pulid_input)
        assert len(stored(tmp_path)) == 1
        files, stop = FileStore(f"file://{tmp_path / 'files'}"), threading.Event()
        keeper = threading.Thread(target=take_care, args=(queue, files, 1.5 / 3600, stop, 1.0))
        keeper.start()
        try:
            eventually(lambda: queue.get(request_id) is None and stored(tmp_path) == [])
        finally:
            stop.set()
            keeper.join()
        assert queue.get(kept) is not None, "what waits is not old"
