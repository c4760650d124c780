"""Files that are written before the row that names them: nothing of them stays when the row never comes."""

import contextlib
import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from server.caretaker import sweep, take_care
from server.errors import Unavailable
from server.files import FileStore
from server.queue import removal
from server.queue.audit import audit
from tests.jobs import A, claim_one, put
from tests.pipelines.lingers import LINGERS
from tests.worker_process import Site, eventually

PHOTO = "0" * 32 + "_x.png"
NAMES_PHOTO = {"face": f"file:{PHOTO}"}


@pytest.fixture
def files(tmp_path):
    return FileStore(f"file://{tmp_path / 'files'}")


@pytest.fixture
def site(tmp_path):
    """A queue whose caretaker works, as in every server; workers are the test's own."""
    site, stop = Site(tmp_path, catalog="tests.pipelines.lingers:CATALOG"), threading.Event()
    caretaker = threading.Thread(target=take_care, args=(site.queue, site.files, 24.0, stop, 0.1))
    caretaker.start()
    yield site
    stop.set()
    caretaker.join()
    site.queue.close()


def stored(site):
    return {file_id for file_id, _, _ in site.files.listing()}


def saving(site, job, times=1):
    """The worker that has just written the job's picture, and waits before the row."""
    trace = site.folder / "note.saved"
    eventually(lambda: trace.exists() and len(trace.read_text().split()) >= times)
    return int(trace.read_text().split()[-1])


def test_a_worker_killed_between_file_and_row_leaves_no_file(site):
    """row 3: the orphan is gone within seconds, the second attempt makes the one result."""
    job = site.put(LINGERS, note=str(site.folder / "note"))
    with site.worker():
        os.kill(saving(site, job), signal.SIGKILL)
    [orphan] = stored(site)
    eventually(lambda: orphan not in stored(site), limit_s=15)
    with site.worker():
        saving(site, job, 2)
        assert audit(site.queue, site.files, quiet=False) == []
        (site.folder / "note.open").touch()
        done = site.done(job)
    assert (done.http_status, done.attempt) == (200, 2)
    assert stored(site) == {done.result["images"][0]["url"].removeprefix("file:")}
    assert audit(site.queue, site.files) == []


def test_a_worker_that_wakes_up_too_late_deletes_its_own(site):
    """row 3, row 8: stopped with its file written; another one finishes; awake again it is fenced off."""
    job = site.put(LINGERS, note=str(site.folder / "note"))
    with site.worker() as late:
        saving(site, job)
        eventually(lambda: stopped_between_writes(site, late))
        eventually(lambda: site.queue.get(job.id).state == "IN_QUEUE")
        (site.folder / "note.open").touch()
        with site.worker() as quick:
            done = site.done(job)
            quick.signal(signal.SIGTERM)
            quick.ended()
        late.signal(signal.SIGCONT)
        eventually(lambda: "result dropped" in late.log)
    assert (done.attempt, site.done(job).result) == (2, done.result)
    assert stored(site) == {done.result["images"][0]["url"].removeprefix("file:")}
    assert audit(site.queue, site.files) == []


def stopped_between_writes(site, worker):
    """SIGSTOP; but one that holds SQLite's write lock would stop everybody."""
    worker.signal(signal.SIGSTOP)
    with closing(sqlite3.connect(site.folder / "queue.db", isolation_level=None, timeout=0.5)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        except sqlite3.OperationalError:
            worker.signal(signal.SIGCONT)
            return False
    return True


# The rules, on both databases


def test_what_a_lost_attempt_wrote_is_swept(queue, files):
    put(queue)
    job = claim_one(queue)
    picture = files.save(b"half a face", "image/png")
    where = Path(files._folder / picture.id[:2] / f".{picture.id}.0a1b2c3d")
    where.write_bytes(b"half")
    assert queue.drafts.note(job, [picture.id])
    assert audit(queue, files, quiet=False) == []
    queue.rescue("w1")
    assert not queue.drafts.note(job, [picture.id])
    sweep(queue, files)
    assert list(files.listing()) == []
    assert audit(queue, files) == []


@pytest.mark.parametrize("ends", ["release", "erase", "fail"])
def test_what_a_job_wrote_in_vain_is_swept(queue, files, ends):
    put(queue)
    job = claim_one(queue)
    picture = files.save(b"a face", "image/png")
    queue.drafts.note(job, [picture.id])
    match ends:
        case "release":
            queue.release(job)
        case "erase":
            list(queue.erase([job.id], files.delete))
        case "fail":
            queue.finish(job, 500, {"detail": []}, error_type="x")
    sweep(queue, files)
    assert audit(queue, files) == list(files.listing()) == []


def test_a_result_keeps_its_own_files_and_no_others(queue, files):
    put(queue)
    job = claim_one(queue)
    kept, left = (files.save(data, "image/png") for data in (b"a", b"b"))
    queue.drafts.note(job, [kept.id, left.id])
    queue.finish(job, 200, {"image": {"url": f"file:{kept.id}", "file_size": 1}})
    sweep(queue, files)
    assert [file_id for file_id, _, _ in files.listing()] == [kept.id]
    assert audit(queue, files) == []


def expected(queue, files, seconds, monkeypatch):
    monkeypatch.setattr("server.queue.drafts.ACCEPTED_WITHIN_S", seconds)
    queue.drafts.expect("me", {PHOTO: b"a face"})
    files.save_as(PHOTO, b"a face")


def test_the_photo_of_a_submit_that_never_came_is_swept(queue, files, monkeypatch):
    """The server died, or the disk was full, between a photo and its request."""
    expected(queue, files, 600, monkeypatch)
    sweep(queue, files)
    assert (len(list(files.listing())), audit(queue, files)) == (1, [])
    expected(queue, files, 0, monkeypatch)
    sweep(queue, files)
    assert list(files.listing()) == []


def test_the_photo_of_a_request_stays(queue, files, monkeypatch):
    expected(queue, files, 0, monkeypatch)
    put(queue, photos=[PHOTO])
    sweep(queue, files)
    assert [file_id for file_id, _, _ in files.listing()] == [PHOTO]


def test_the_photo_of_a_request_stays_when_another_submit_of_it_never_came(queue, files, monkeypatch):
    expected(queue, files, 0, monkeypatch)
    queue.put("test/a", NAMES_PHOTO, owner="me", base_url="http://host", photos=[PHOTO])
    expected(queue, files, 0, monkeypatch)
    sweep(queue, files)
    assert [file_id for file_id, _, _ in files.listing()] == [PHOTO]
    assert queue.ledger.find(PHOTO) is None
    assert audit(queue, files) == []


# The same face is submitted again while it is being deleted


def submit_photo(queue, files, **terms):
    """As the API does it."""
    queue.drafts.expect("me", {PHOTO: b"a face"})
    files.save_as(PHOTO, b"a face")
    return queue.put(A, NAMES_PHOTO, owner="me", base_url="http://host", photos=[PHOTO], **terms)


def swept(queue, files, delete_files):
    """A submit that never came."""
    queue.ledger.sweep(delete_files)


def erased(queue, files, delete_files):
    """A request whose client deletes it."""
    [job] = queue.register()
    list(queue.erase([job.id], delete_files))


def pruned(queue, files, delete_files):
    """A request whose client wanted nothing kept."""
    assert queue.prune(0, delete_files) == 1


def aged(queue, files, delete_files):
    """A photo that was written longer ago than files are kept."""
    queue.ledger.remove_old([PHOTO], delete_files)


@pytest.fixture(params=[swept, erased, pruned, aged])
def ends(request, queue, files, monkeypatch):
    """How the one thing that needs a photo ends, so that the photo is to be deleted."""
    if request.param is swept:
        expected(queue, files, 0, monkeypatch)
        monkeypatch.undo()
    else:
        submit_photo(queue, files, store_io=False)
        queue.finish(claim_one(queue), 200, {})
    return request.param


def test_a_photo_that_comes_again_while_it_is_deleted_is_written_again(ends, queue, files, open_queue):
    """The submit waits for the end of the deletion."""
    elsewhere, submitted = open_queue(), []

    def delete_meanwhile(file_ids):
        if PHOTO in file_ids and not submitted:
            submitted.append(pool.submit(submit_photo, elsewhere, files))
            with contextlib.suppress(TimeoutError):
                submitted[0].result(timeout=0.5)
        files.delete(file_ids)

    with ThreadPoolExecutor(1) as pool:
        ends(queue, files, delete_meanwhile)
    job = submitted[0].result()
    assert queue.get(job.id).input == NAMES_PHOTO
    assert files.read(PHOTO) == b"a face"
    sweep(queue, files)
    assert files.read(PHOTO) == b"a face"
    assert audit(queue, files) == []


def test_a_photo_that_a_submit_expects_again_stays(ends, queue, files):
    """It has begun, but its row is not there yet."""
    queue.drafts.expect("me", {PHOTO: b"a face"})
    ends(queue, files, files.delete)
    assert files.read(PHOTO) == b"a face"
    queue.put(A, NAMES_PHOTO, owner="me", base_url="http://host", photos=[PHOTO])
    assert queue.ledger.find(PHOTO) is None
    assert audit(queue, files) == []


def test_of_two_submits_with_one_photo_the_first_may_be_deleted_before_the_second_is_there(queue, files):
    queue.drafts.expect("me", {PHOTO: b"a face"})
    first = submit_photo(queue, files)
    list(queue.erase([first.id], files.delete))
    queue.put(A, NAMES_PHOTO, owner="me", base_url="http://host", photos=[PHOTO])
    assert files.read(PHOTO) == b"a face"
    assert audit(queue, files) == []


def test_a_submit_whose_photo_was_swept_meanwhile_is_not_taken(queue, files, monkeypatch):
    """It took longer than any submit may: its client is told to send it again."""
    expected(queue, files, 0, monkeypatch)
    sweep(queue, files)
    with pytest.raises(Unavailable):
        queue.put(A, NAMES_PHOTO, owner="me", base_url="http://host", photos=[PHOTO])
    assert queue.census.take().states["IN_QUEUE"] == 0


def test_an_upload_that_is_opened_again_while_others_are_swept_stays(queue, files, monkeypatch):
    """Only what is over when its turn comes is deleted."""
    first, second = ids = [f"{number:032x}_x.bin" for number in range(2)]
    long_ago = time.time() - 100
    for file_id in ids:
        queue.ledger.begin(file_id, "me", 60, None)
        assert queue.ledger.claim(file_id, 1, 0, long_ago) == "yours"
        files.save_as(file_id, b"x")

    def portions(file_ids, most):
        yield [first]
        queue.ledger.reopen(second, long_ago)
        yield [second]

    monkeypatch.setattr(removal, "batches", portions)
    assert queue.ledger.sweep(files.delete) == 1
    assert [file_id for file_id, _, _ in files.listing()] == [second]
    assert queue.ledger.find(second) is not None
