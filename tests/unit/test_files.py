"""Files come back as they went in, on a folder and on an object store, and nobody reads beside them."""

import os
import re
import time

import pytest

from server.files import FileMissing, FileStore, content_id, file_id_in

PNG = b"\x89PNG" + bytes(range(256)) * 4096


@pytest.fixture(params=["folder", "object store"])
def files(request, tmp_path) -> FileStore:
    return FileStore(f"file://{tmp_path}/files" if request.param == "folder" else "memory:///")


def test_a_file_comes_back_byte_by_byte_with_its_type_and_name(files):
    stored = files.save(PNG, "image/png", "portrait.png")
    assert (stored.content_type, stored.file_name, stored.size) == ("image/png", "portrait.png", len(PNG))
    assert files.stat(stored.id) == stored
    assert files.read(stored.id) == PNG
    assert b"".join(files.stream(stored.id, 100, 5)) == PNG[100:105]
    assert b"".join(files.stream(stored.id, len(PNG) - 3)) == PNG[-3:]
    assert b"".join(files.stream(stored.id, 5, 0)) == b""


def test_an_empty_file_is_a_file(files):
    assert files.read(files.save(b"", "text/plain").id) == b""


@pytest.mark.parametrize(
    ("content_type", "wanted", "name", "read_as"),
    [
        ("image/jpeg", "photo.jpeg", "photo.jpeg", "image/jpeg"),
        ("image/jpeg", "photo.png", "photo.png.jpg", "image/jpeg"),
        ("image/webp", "x", "x.webp", "image/webp"),
        ("text/plain; charset=utf-8", "a.txt", "a.txt", "text/plain"),
        ("application/x-unheard-of", "a", "a.bin", "application/octet-stream"),
        ("image/png", "../../etc/passwd", "passwd.png", "image/png"),
        ("image/png", "a\r\nSet-Cookie: x.png", "a-Set-Cookie-x.png", "image/png"),
        ("image/png", "портрет.png", "png.png", "image/png"),
        ("image/png", "y" * 300 + ".png", "y" * 96 + ".png", "image/png"),
    ],
)
def test_the_name_is_harmless_and_says_the_type(files, content_type, wanted, name, read_as):
    stored = files.save(b"x", content_type, wanted)
    assert (stored.file_name, stored.content_type) == (name, read_as)
    assert files.stat(stored.id).content_type == read_as


def test_a_name_is_made_up_where_none_is_given(files):
    assert re.fullmatch(r"[0-9a-f]{32}\.png", files.save(b"x", "image/png").file_name)


def test_the_same_content_twice_is_one_file_only_where_asked_for(files):
    assert content_id(PNG, "image/png") == content_id(bytes(PNG), "image/png") != content_id(PNG + b"x", "image/png")
    assert files.save(PNG, "image/png").id != files.save(PNG, "image/png").id


@pytest.mark.parametrize(
    "file_id", ["", "x", "../secret", "0" * 32 + "_..", "0" * 32 + "_a/../../b", "0" * 32 + "_a.png"]
)
def test_what_is_not_there_is_missing(files, file_id):
    with pytest.raises(FileMissing):
        files.stat(file_id)
    with pytest.raises(FileMissing):
        files.stream(file_id)


def at_once(file_ids, delete_old):
    delete_old(file_ids)


def test_a_file_that_is_written_again_before_it_is_pruned_stays(files):
    """A photo is the same file in every request that brings it."""
    again = files.save_as(content_id(b"again", "image/png"), b"again")
    files.save_as(content_id(b"old", "image/png"), b"old")
    time.sleep(0.2)

    def meanwhile(file_ids, delete_old):
        files.save_as(again.id, b"again")
        delete_old(file_ids)

    files.prune(0.1, meanwhile)
    assert [file_id for file_id, _, _ in files.listing()] == [again.id]


def test_old_files_are_pruned(files):
    stored = files.save(PNG, "image/png")
    assert files.prune(3600, at_once) == 0
    time.sleep(0.05)
    assert files.prune(0, at_once) == 1
    with pytest.raises(FileMissing):
        files.read(stored.id)


def test_a_crash_while_writing_leaves_nothing_that_looks_like_a_file(tmp_path, monkeypatch):
    files = FileStore(f"file://{tmp_path}")

    def crash(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="space"):
        files.save(PNG, "image/png")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_own_url_names_its_file():
    file_id = "0" * 32 + "_a.png"
    assert file_id_in(f"file:{file_id}") == file_id
    assert file_id_in(f"https://v3.fal.media/files/{file_id}") == file_id
    assert file_id_in(f"http://host:8000/prefix/files/{file_id}?x=1") == file_id
    assert file_id_in("https://v3.fal.media/files/elephant/abc.png") is None
    assert file_id_in("file:///etc/passwd") is None


def test_what_a_killed_writer_left_half_written_goes_after_an_hour(tmp_path):
    files = FileStore(f"file://{tmp_path}")
    stored = files.save(PNG, "image/png")
    draft = tmp_path / stored.id[:2] / f".{stored.id}.0badcafe"
    draft.write_bytes(PNG[:4])

    assert files.prune(30 * 86400, at_once) == 0
    os.utime(draft, (time.time() - 3700,) * 2)
    assert files.prune(30 * 86400, at_once) == 1
    assert not draft.exists() and files.read(stored.id) == PNG
