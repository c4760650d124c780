"""row 80: A bundle that somebody has made or changed by hand: each trick is refused, with the file and the reason."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from weights.archive import opened
from weights.install import install
from weights.parts import BundleError

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GOOD = {"path": "weights/a.safetensors", "size": len(CONTENT), "sha256": SHA256}


def entry(name: str = GOOD["path"], content: bytes = CONTENT, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in more.items():
        setattr(info, field, value)
    return info, content


def index(*members: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"format": 1, "application": "0.1.0", "profile": "full", "members": members} | more).encode()


def write(file: Path, encoded: bytes, *entries: tuple[tarfile.TarInfo, bytes], tail: bytes = b"") -> Path:
    """A tar as an attacker would write it: the index's sum is right, whatever the index says."""
    sums = f"{hashlib.sha256(encoded).hexdigest()}  index.json\n".encode()
    with file.open("wb") as stream:
        for info, content in [entry("index.json", encoded), entry("index.json.sha256", sums), *entries]:
            stream.write(info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
        stream.write(bytes(1024) + tail)
    return file


def refused(bundle: Path, root: Path) -> str:
    """The message; nothing was written outside of the root, and no weights are there."""
    with pytest.raises(BundleError) as failure, opened(bundle) as archive:
        install(archive, root, "0.1.0", lambda count: None)
    assert bundle.name in str(failure.value)
    left = {path.relative_to(root.parent).as_posix() for path in root.parent.rglob("*")} - {bundle.name}
    assert left <= {"weights", "weights/.weights.guard", "weights.guard"}
    return str(failure.value)


def test_the_bundle_that_the_tricks_start_from_is_good(tmp_path):
    with opened(write(tmp_path / "x.bundle", index(GOOD), entry())) as archive:
        install(archive, tmp_path / "weights", "0.1.0", lambda count: None)
    assert (tmp_path / "weights" / "a.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.DIRTYPE, "folder"),
        (tarfile.XHDTYPE, "entry of type b'x'"),
        (tarfile.GNUTYPE_SPARSE, "entry of type b'S'"),
    ],
)
def test_links_devices_and_other_entries_are_refused(tmp_path, kind, name):
    trick = entry(type=kind, linkname="/etc/passwd")
    message = refused(write(tmp_path / "x.bundle", index(GOOD), trick), tmp_path / "weights")
    assert "holds 'weights/a.safetensors" in message
    assert f"as a {name}; only plain files are allowed" in message


@pytest.mark.parametrize(
    "path",
    [
        "weights/../../evil",
        "/etc/evil",
        "weights//evil",
        "weights/./evil",
        "weights/.ssh/evil",
        "weights/evil\n",
        "weights/evil\x00.txt",
        "weights\\evil",
        "C:/evil",
        "weights/" + "x" * 2000,
        "",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(tmp_path, path):
    bundle = write(tmp_path / "x.bundle", index(GOOD | {"path": path}), entry("weights/evil"))
    assert "leads elsewhere: do not install this bundle" in refused(bundle, tmp_path / "weights")


def test_a_place_that_is_no_weight_is_refused(tmp_path):
    bundle = write(tmp_path / "x.bundle", index(GOOD, GOOD | {"path": "etc/evil"}), entry(), entry("etc/evil"))
    assert "holds etc/evil, which belongs nowhere" in refused(bundle, tmp_path / "weights")


def test_two_names_for_one_file_are_refused(tmp_path):
    twice = index(GOOD, GOOD | {"path": "weights/A.safetensors"})
    bundle = write(tmp_path / "x.bundle", twice, entry(), entry("weights/A.safetensors"))
    assert "names a file twice" in refused(bundle, tmp_path / "weights")


def test_other_files_than_the_index_names_are_refused(tmp_path):
    root = tmp_path / "weights"
    other = write(tmp_path / "other.bundle", index(GOOD), entry("weights/b.safetensors"))
    assert "holds 'weights/b.safetensors' of 7 bytes where its index has weights/a.safetensors" in refused(other, root)
    other.unlink()
    more = write(tmp_path / "more.bundle", index(GOOD), entry(), entry("weights/b.safetensors"))
    assert "bytes, expected" in refused(more, root)
    more.unlink()
    swapped = write(tmp_path / "swapped.bundle", index(GOOD), tail=b"x" * 1024)
    assert "damaged" in refused(swapped, root)


def test_another_content_of_the_same_size_is_refused(tmp_path):
    bundle = write(tmp_path / "x.bundle", index(GOOD), entry(content=b"WEIGHTS"))
    assert f"weights/a.safetensors in {bundle} is damaged" in refused(bundle, tmp_path / "weights")


@pytest.mark.parametrize("size", [-1, -(2**63)])
def test_a_size_below_zero_is_refused(tmp_path, size):
    bundle = write(tmp_path / "x.bundle", index(GOOD | {"size": size}), entry())
    assert "leads elsewhere" in refused(bundle, tmp_path / "weights")


def test_another_format_names_the_version_that_made_it(tmp_path):
    bundle = write(tmp_path / "x.bundle", index(GOOD, format=2, application="3.0.0"), entry())
    assert "has format 2, this Veraicon reads format 1: it was made by '3.0.0'" in refused(bundle, tmp_path / "weights")


@pytest.mark.parametrize("encoded", [b"{", b"[]", b"{}", b'{"format": 1}', b'{"format": 1, "members": 3}', b"\xff"])
def test_an_index_that_cannot_be_read_is_refused(tmp_path, encoded):
    assert "the index of" in refused(write(tmp_path / "x.bundle", encoded), tmp_path / "weights")


@pytest.mark.parametrize("content", [b"", b"x", b"not a bundle at all " * 100, bytes(2048)])
def test_a_file_that_is_no_bundle_is_refused(tmp_path, content):
    (tmp_path / "x.bundle").write_bytes(content)
    assert "is no bundle of Veraicon" in refused(tmp_path / "x.bundle", tmp_path / "weights")


def test_another_tar_is_refused(tmp_path):
    info, content = entry()
    with tarfile.open(tmp_path / "x.bundle", "w") as archive:
        archive.addfile(info, io.BytesIO(content))
    assert "another program wrote it" in refused(tmp_path / "x.bundle", tmp_path / "weights")


def test_another_bundle_than_the_one_announced_is_refused(tmp_path):
    good, other = index(GOOD), index(GOOD, application="0.0.9")
    bundle = write(tmp_path / "x.bundle", other, entry())
    with opened(bundle) as archive:
        archive.require(hashlib.sha256(other).hexdigest())
        with pytest.raises(BundleError, match=f"another bundle than {hashlib.sha256(good).hexdigest()}"):
            archive.require(hashlib.sha256(good).hexdigest())


def test_an_index_that_claims_to_be_huge_is_not_read(tmp_path):
    info = tarfile.TarInfo("index.json")
    info.size = 2**40
    (tmp_path / "x.bundle").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    assert "it does not begin with index.json" in refused(tmp_path / "x.bundle", tmp_path / "weights")


@pytest.fixture
def parts(sealed, tmp_path) -> Path:
    """The bundle with the application, to be spoiled; its installer beside it."""
    shutil.copytree(sealed.bundle.parent, tmp_path / "disk")
    return tmp_path / "disk" / sealed.bundle.name


def unpack(bundle: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(bundle.with_name("install.sh")), str(bundle), str(bundle.parent / "studio"), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_installer_refuses_another_bundle_than_the_one_announced(parts):
    done = unpack(parts, "0" * 64)
    assert done.returncode == 1
    assert f"{parts} is another bundle than {'0' * 64}. Do not install it." in done.stderr
    assert not list((parts.parent / "studio").glob("*"))


def test_the_installer_finds_a_flipped_byte_in_the_application(parts):
    first = parts.with_name(f"{parts.name}.001")
    first.write_bytes(spoiled(first.read_bytes()))
    done = unpack(parts)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert f"{parts} is damaged (see above). Copy it again." in done.stderr
    assert not list((parts.parent / "studio").glob("*"))


def spoiled(content: bytes) -> bytes:
    """One byte of the installer's own text, as the bundle holds it, flipped."""
    place = content.index(b"# Installs Veraicon without network")
    return content[:place] + b"$" + content[place + 1 :]


def test_the_installer_says_when_a_part_is_missing(parts):
    parts.with_name(f"{parts.name}.001").unlink()
    done = unpack(parts)
    assert done.returncode == 1
    assert f"there is no bundle {parts} (nor {parts}.001)" in done.stderr
