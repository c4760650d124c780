"""A photo in a request: nobody else's is touched by its end, and none stays that no request needs."""

import time
from pathlib import Path

from server.queue.queue import Queue
from tests.app import running_app
from tests.conftest import as_data_uri


def stored(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "files").rglob("*_*") if file.is_file())


def test_naming_a_file_gives_no_power_over_it(queue: Queue):
    """Neither another key's upload in one's own input, nor what an error repeats of it."""
    theirs = f"{'ab' * 16}_face.png"
    queue.ledger.begin(theirs, "anna", 60.0, None)
    queue.ledger.claim(theirs, 1, 0, time.time())
    words = {"prompt": f"file:{theirs}"}
    echo = (422, {"detail": [{"loc": ["body"], "input": f"file:{theirs}"}]}, "list_type")
    ids = [queue.put("test/a", words, owner="ben", base_url="http://host", finished=end).id for end in (None, echo)]
    deleted: list[str] = []
    list(queue.erase(ids, deleted.extend))

    assert deleted == []
    assert queue.ledger.find(theirs) is not None


def test_of_a_request_that_nobody_wanted_kept_the_photo_goes_too(queue: Queue):
    """With its deletion, or with its row about an hour after the end; until then the row says no more than the name."""
    photos = [f"{f'{number:02x}' * 16}_{number}.png" for number in (1, 2)]
    for photo in photos:
        body = {"prompt": "sekret", "image_url": f"file:{photo}"}
        queue.put("test/a", body, owner="me", base_url="http://host", store_io=False)
    first, second = (queue.claim("w1", ["test/a"])[0] for _ in photos)
    deleted: list[str] = []
    for job in (first, second):
        queue.finish(job, 200, {})
        assert queue.get(job.id).input == {"files": [job.input["image_url"]]}

    list(queue.erase([first.id], deleted.extend))
    assert deleted == photos[:1]
    assert queue.prune(-1, deleted.extend) == 1
    assert deleted == photos


def test_a_refused_request_leaves_no_photo(tmp_path, pulid_input):
    """Too many wait already; or another of its pictures cannot be read."""
    body = pulid_input | {"reference_images": [{"image_url": as_data_uri(b"another face")}]}
    broken = pulid_input | {"reference_images": [*body["reference_images"], {"image_url": "data:image/png;base64,!"}]}
    with running_app(tmp_path, max_queued_per_key=1, max_concurrent_per_key=1) as (client, _):
        client.post("/queue/fal-ai/pulid", json=pulid_input)
        before = stored(tmp_path)
        answers = [client.post(path, json=body).status_code for path in ("/queue/fal-ai/pulid", "/fal-ai/pulid")]
        answers.append(client.post("/queue/fal-ai/pulid", json=broken).status_code)

    assert answers == [429, 429, 200]
    assert len(before) == 1
    assert stored(tmp_path) == before
