"""Weights bundled on one machine and installed on another: whole or not at all, and back again."""

import hashlib
import random
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from tests.server_process import ROOT, environment, veraicon
from weights.archive import Index, Member, opened, total_bytes, write_archive
from weights.bundle import index_of, sources_of, write_bundle
from weights.install import alone, install, installed, rollback
from weights.lock import Lock, Locked, LockedCheckpoint, Prepared, read_lock, write_lock
from weights.manifest import WeightsError
from weights.parts import BundleError

OWN = {"LICENCES.md", "manifest.toml", "installed.json"}


def nothing(count: int) -> None:
    """A progress bar for nobody."""


def weigh(root: Path, text: str, files: int = 3) -> Path:
    """A folder of weights, each file with a content of its own."""
    for number in range(files):
        file = root / "instantid" / f"part{number}" / "model.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(f"{text} {number} ".encode() * 100)
    return root


def make(root: Path, file: Path, split: int = 0, application: str = "0.1.0") -> Path:
    sources = sources_of(root)
    write_bundle(file, sources, index_of(sources, application, "full", nothing), split, nothing)
    return file


def put(file: Path, root: Path, application: str = "0.1.0") -> None:
    with opened(file) as archive:
        install(archive, root, application, nothing)


def contents(root: Path) -> dict[str, bytes]:
    """Every weight below a root."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in OWN and not name.startswith(".")}


@pytest.fixture
def old(tmp_path):
    """A sealed machine's weights, installed from an earlier bundle."""
    put(make(weigh(tmp_path / "earlier", "old"), tmp_path / "old.bundle"), tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def new(tmp_path):
    """The next bundle's weights."""
    return weigh(tmp_path / "source", "new")


def test_what_was_bundled_is_installed_byte_for_byte_with_lock_and_licences(tmp_path):
    root = weigh(tmp_path / "source", "new")
    content = (root / "instantid/part0/model.safetensors").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    files = {"instantid/part0/model.safetensors": Locked(len(content), sha256, "hub")}
    write_lock(root, Lock({"instantid": LockedCheckpoint("InstantX/InstantID", "abc", files)}))
    put(make(root, tmp_path / "x.bundle"), tmp_path / "weights")
    assert contents(tmp_path / "weights") == contents(root)
    assert read_lock(tmp_path / "weights") == read_lock(root)
    assert "non-commercial" in (tmp_path / "weights" / "LICENCES.md").read_text()


def test_the_commands_carry_the_tiny_weights_over_in_parts_and_go_back(tmp_path):
    bundle = tmp_path / "tiny.bundle"
    made = veraicon(tmp_path, "weights", "bundle", str(bundle), "--weights", "tiny", "--split", "10M")
    assert made.returncode == 0, made.stderr
    assert "tiny.bundle.001 to tiny.bundle.003" in made.stdout
    assert (tmp_path / "tiny.bundle.001").stat().st_size == 10_000_000
    for _ in range(2):
        done = veraicon(tmp_path, "weights", "install", str(bundle))
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "weights") == contents(ROOT / "weights" / "tiny")
    (tmp_path / "weights" / "mark").touch()
    back = veraicon(tmp_path, "weights", "install", "--rollback")
    assert back.returncode == 0, back.stderr
    assert not (tmp_path / "weights" / "mark").exists()
    assert (tmp_path / "weights.before" / "mark").exists()


def test_an_upgrade_keeps_the_weights_before_and_goes_back_and_forth(old, new, tmp_path):
    before = contents(old)
    put(make(new, tmp_path / "new.bundle"), old)
    assert contents(old) == contents(new)
    rollback(old)
    assert contents(old) == before
    rollback(old)
    assert contents(old) == contents(new)


def test_an_upgrade_keeps_the_studios_own_bases_and_their_entries_in_the_lock(old, new, tmp_path):
    own = old / "instantid" / "bases" / "house.safetensors"
    own.parent.mkdir()
    own.write_bytes(b"our own")
    entry = LockedCheckpoint(
        "/home/x/house.safetensors", "", {"instantid/bases/house.safetensors": Locked(7, "a" * 64, "local")}
    )
    write_lock(old, Lock({"bases/house": entry}))
    put(make(new, tmp_path / "new.bundle"), old)
    assert own.read_bytes() == b"our own"
    assert read_lock(old).checkpoints["bases/house"] == entry


def killed_while_installing(bundle: Path, folder: Path) -> bool:
    """Start an install and kill it once files have been written; whether it was still at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "weights", "install", str(bundle)], cwd=ROOT, env=environment(folder)
    )
    while process.poll() is None and not list((folder / "weights.installing").glob("instantid/part1*/*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_a_bundle_killed_while_it_is_installed_leaves_the_old_weights(old, tmp_path):
    before = contents(old)
    bundle = make(weigh(tmp_path / "large", "new" * 100, files=600), tmp_path / "large.bundle")
    while not killed_while_installing(bundle, tmp_path):  # a loaded machine may look too late
        rollback(old)
    assert (tmp_path / "weights.installing").is_dir()
    assert contents(old) == before
    put(bundle, old)
    assert contents(old) == contents(tmp_path / "large")
    assert not (tmp_path / "weights.installing").exists()


def test_a_flipped_byte_anywhere_is_found_before_anything_is_replaced(old, new, tmp_path):
    bundle = make(new, tmp_path / "new.bundle")
    whole, before = bundle.read_bytes(), contents(old)
    places = random.Random(7)  # the same places in every run
    for place in [*places.sample(range(len(whole)), 150), 0, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << places.randrange(8)
        bundle.write_bytes(damaged)
        with pytest.raises(BundleError, match=r"new\.bundle"):
            put(bundle, old)
    assert contents(old) == before
    assert not (tmp_path / "weights.installing").exists()


def test_a_flipped_byte_in_a_weight_is_named_with_both_hashes(new, tmp_path):
    bundle = make(new, tmp_path / "new.bundle")
    bundle.write_bytes(bundle.read_bytes().replace(b"new 1", b"bad 1", 1))
    with pytest.raises(
        BundleError, match=r"weights/instantid/part1/model.safetensors .* is damaged: its sha256 is [0-9a-f]{64}"
    ):
        put(bundle, tmp_path / "weights")
    assert not (tmp_path / "weights").exists() or not contents(tmp_path / "weights")


def test_a_weight_that_changed_since_it_was_locked_is_not_bundled(new, tmp_path):
    files = {"instantid/part1/model.safetensors": Locked(600, "0" * 64, "hub")}
    write_lock(new, Lock({"x": LockedCheckpoint("x", "", files)}))
    with pytest.raises(BundleError, match=r"part1/model.safetensors has sha256 \w+, recorded is 0000"):
        make(new, tmp_path / "x.bundle", split=1000)
    assert not list(tmp_path.glob("x.bundle*"))
    (new / "instantid/part1/model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"part1/model.safetensors is missing, which weights.lock names"):
        make(new, tmp_path / "x.bundle")


def test_a_pickle_that_was_prepared_and_deleted_is_not_missed(new, tmp_path):
    files = {"instantid/ip-adapter.bin": Locked(600, "0" * 64, "hub")}
    sha256 = hashlib.sha256((new / "instantid/part0/model.safetensors").read_bytes()).hexdigest()
    made = Prepared(600, sha256, {"instantid/ip-adapter.bin": "0" * 64}, "float16")
    lock = Lock({"x": LockedCheckpoint("x", "", files)}, {"instantid/part0/model.safetensors": made})
    write_lock(new, lock)
    put(make(new, tmp_path / "x.bundle"), tmp_path / "weights")
    assert read_lock(tmp_path / "weights") == lock


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda parts: parts[1].unlink(), r"x.bundle.002 is missing"),
        (lambda parts: parts[-1].unlink(), r"x.bundle.00\d is missing"),
        (lambda parts: parts[1].write_bytes(b"short"), r"x.bundle.002 is 5 bytes, expected 4000: copy it again"),
        (lambda parts: parts[0].rename(parts[0].with_suffix(".lost")), r"x.bundle.001 is missing"),
        (lambda parts: [part.unlink() for part in parts], r"there is no bundle .*x.bundle \(nor x.bundle.001\)"),
    ],
)
def test_a_part_that_is_missing_or_cut_short_is_named(new, tmp_path, spoil, message):
    make(new, tmp_path / "x.bundle", split=4000)
    spoil(sorted(tmp_path.glob("x.bundle.*")))
    with pytest.raises(BundleError, match=message):
        put(tmp_path / "x.bundle", tmp_path / "weights")


def test_weights_of_a_newer_version_ask_for_that_version_first(new, tmp_path):
    make(new, tmp_path / "x.bundle", application="0.2.0")
    with pytest.raises(BundleError, match=r"made by Veraicon 0.2.0, this is 0.1.9: install that version first"):
        put(tmp_path / "x.bundle", tmp_path / "weights", application="0.1.9")
    put(tmp_path / "x.bundle", tmp_path / "weights", application="0.10.0")
    assert installed(tmp_path / "weights").application == "0.2.0"


def test_another_file_than_the_published_one_is_refused(tmp_path):
    root = weigh(tmp_path / "source", "new")
    (root / "antelopev2").mkdir()
    (root / "antelopev2" / "glintr100.onnx").write_bytes(b"another model")
    with pytest.raises(BundleError, match=r"antelopev2/glintr100.onnx .* known is 4ab1d643"):
        put(make(root, tmp_path / "x.bundle"), tmp_path / "weights")


def test_no_disk_is_filled_by_halves(new, tmp_path):
    huge = Member("weights/huge.safetensors", 10**15, "0" * 64)
    with pytest.raises(BundleError, match=r"x.bundle needs 1000000.0 GB, .* GB are free"):
        write_bundle(tmp_path / "x.bundle", [], Index("0.1.0", "full", (huge,)), 0, nothing)
    root = tmp_path / "weights"
    big = Member("weights/big.safetensors", 10**13, "0" * 64)  # its bundle is a hole
    encoded = Index("0.1.0", "full", (big,))
    (tmp_path / "hole").write_bytes(b"")
    write_hole(tmp_path / "hole", encoded)
    with pytest.raises(BundleError, match=r"weights needs 10000.0 GB beside it, .* GB are free: make room"):
        put(tmp_path / "hole", root)


def write_hole(file: Path, index: Index) -> None:
    """A bundle whose index promises more than there is: its length is right, its content a hole."""
    with file.open("wb") as stream:
        with pytest.raises(BundleError):
            write_archive(stream, index, [b""], nothing)
        stream.truncate(total_bytes(index, len(index.encode())))


def test_a_disk_that_holds_no_large_files_asks_for_a_split(tmp_path):
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))

    command = [sys.executable, "-m", "server.cli", "weights", "bundle", str(tmp_path / "x"), "--weights", "tiny"]
    run = {
        "cwd": ROOT,
        "env": environment(tmp_path),
        "capture_output": True,
        "text": True,
        "preexec_fn": small_files_only,
    }
    done = subprocess.run(command, check=False, **run)
    assert done.returncode == 1
    assert "holds no file so large (FAT): add `--split 4G`" in done.stderr
    assert not list(tmp_path.glob("x*"))
    assert subprocess.run([*command, "--split", "4M"], check=False, **run).returncode == 0


def test_nothing_that_is_there_is_overwritten_by_a_bundle(new, tmp_path):
    make(new, tmp_path / "x.bundle")
    with pytest.raises(BundleError, match=r"x.bundle exists already: delete it, or choose another name"):
        make(new, tmp_path / "x.bundle", split=4000)


def test_a_root_that_cannot_be_exchanged_says_what_to_set(new, tmp_path):
    bundle = make(new, tmp_path / "x.bundle")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"is a link and cannot be exchanged .*VERAICON_WEIGHTS_DIR"):
        put(bundle, tmp_path / "weights")


def test_two_installs_do_not_meet(old, new, tmp_path):
    bundle = make(new, tmp_path / "x.bundle")
    with alone(old), pytest.raises(WeightsError, match="another `veraicon weights install` works on"):
        put(bundle, old)
    with pytest.raises(BundleError, match="there are no weights to go back to"):
        rollback(tmp_path / "nowhere" / "weights")


def test_memory_does_not_grow_with_the_weights(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    with (root / "large.safetensors").open("wb") as stream:
        stream.truncate(60_000_000)
    tracemalloc.start()
    put(make(root, tmp_path / "x.bundle", split=20_000_000), tmp_path / "weights")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
