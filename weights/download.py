"""Download one file: resumed where it was left, proven, and only then under its own name."""

import hashlib
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

import httpx2

from weights.hub import Remote, refuse
from weights.manifest import WeightsError
from weights.patience import Passing, patiently, unreachable
from weights.store import broken, sha256_of

CHUNK = 1024 * 1024
NAMELESS = "new"
Report = Callable[[int], None]
"""Told how many bytes have come since; less than zero when some were thrown away."""


@dataclass(frozen=True)
class Line:
    """What downloads share.

    Args:
        hub, token: the token goes to addresses of this hub, and to nobody else.
        archives: held by the one who fetches an archive that others may want too.
        stop: set to end every download.
    """

    client: httpx2.Client
    hub: str
    token: str | None = None
    archives: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def go_on(self) -> None:
        """Raises WeightsError once `stop` is set."""
        if self.stop.is_set():
            raise WeightsError("stopped; what has arrived is kept")

    def headers(self, url: str, start: int = 0) -> dict[str, str]:
        """For a request that begins at byte `start`."""
        secret = {"Authorization": f"Bearer {self.token}"} if self.token and url.startswith(f"{self.hub}/") else {}
        return {"Accept-Encoding": "identity"} | secret | ({"Range": f"bytes={start}-"} if start else {})


@dataclass(frozen=True)
class Wanted:
    """One file to be had.

    Args:
        target: its name in messages. place: where it goes.
        parts: folder for what is not complete yet, on the same disk.
        urls: in the order of trying. remote: what is known about its bytes.
    """

    target: str
    place: Path
    parts: Path
    urls: tuple[str, ...]
    remote: Remote

    @property
    def part(self) -> Path:
        """Where its bytes gather; other bytes under the same name gather elsewhere."""
        return self.parts / f"{self.target.replace('/', '--')}.{self.remote.identity[:16] or NAMELESS}"

    @property
    def arrived(self) -> int:
        """Bytes that need not be downloaded again."""
        return self.part.stat().st_size if self.part.exists() else 0


def download(line: Line, wanted: Wanted, report: Report) -> str:
    """Put `wanted` into its place; its sha256.

    Raises:
        WeightsError: no address gave the right bytes; says of each why, and what to do.
    """
    wanted.parts.mkdir(parents=True, exist_ok=True)
    if not wanted.remote.identity:
        wanted.part.unlink(missing_ok=True)  # nobody could tell whether the rest belongs to it
    problems = []
    for url in wanted.urls:
        try:
            digest = fetch(line, url, wanted, report)
        except WeightsError as error:
            problems.append(str(error))
        else:
            settle(wanted.part, wanted.place)
            return digest
    raise WeightsError(f"{wanted.target} was not downloaded. " + "; then ".join(problems))


def settle(part: Path, place: Path) -> None:
    """Give a proven file its name; after a power cut it is whole or not there."""
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    place.parent.mkdir(parents=True, exist_ok=True)
    part.replace(place)


def fetch(line: Line, url: str, wanted: Wanted, report: Report) -> str:
    """The proven bytes of `url` in `wanted.part`; their sha256. A part that proves wrong is fetched once more whole."""
    resumed = wanted.arrived > 0
    bring(line, url, wanted, report)
    try:
        return prove(wanted, f"{wanted.target} from {url}")
    except WeightsError:
        report(-wanted.arrived)
        wanted.part.unlink()
        if not resumed:
            raise
    return fetch(line, url, wanted, report)


def here_is(address: str) -> Path | None:
    """The file of this machine that a file:// address means. Raises WeightsError when it is not there."""
    if not address.startswith("file:"):
        return None
    path = Path(unquote(urlsplit(address).path))
    if not path.is_file():
        raise WeightsError(f"{path} is not there: put it there, or mend the manifest")
    return path


def bring(line: Line, url: str, wanted: Wanted, report: Report) -> None:
    """Whatever `url` is, a file or one in an archive, here or far away: its bytes into the part."""
    address, member = urldefrag(url)
    here = here_is(address)
    if here and not member:
        copy(here, wanted.part, line, report)
    elif here:
        unpack(here, member, wanted.part)
        report(wanted.arrived)
    elif member:
        archive = fetch_archive(line, address, wanted)
        try:
            unpack(archive, member, wanted.part)
        except WeightsError:
            archive.unlink()
            raise
        report(wanted.arrived)
    else:
        patiently(lambda: stream(line, address, wanted, report))


def copy(source: Path, part: Path, line: Line, report: Report) -> None:
    """All of a file that is on this machine."""
    report(-part.stat().st_size if part.exists() else 0)
    with source.open("rb") as old, part.open("wb") as new:
        while chunk := old.read(CHUNK):
            line.go_on()
            new.write(chunk)
            report(len(chunk))


def stream(line: Line, url: str, wanted: Wanted, report: Report) -> None:
    """Append what is missing to the part. Raises Passing when it breaks off, WeightsError when it is refused."""
    start, size = wanted.arrived, wanted.remote.size
    if size is not None and start >= size:
        return
    try:
        with line.client.stream("GET", url, headers=line.headers(url, start)) as answer:
            if answer.status_code == 416:  # the part is no beginning of what is there now
                wanted.part.unlink()
                raise Passing(f"{url} has no byte {start}")
            check_status(answer, url)
            receive(line, answer, wanted, report)
    except httpx2.HTTPError as error:
        came = wanted.arrived > start
        broke = f"{url} broke off at byte {wanted.arrived} ({error})" if came else str(unreachable(url, error))
        raise Passing(broke, progress=came) from error
    if size is not None and wanted.arrived < size:
        raise Passing(f"{url} broke off at {wanted.arrived} of {size} bytes", progress=wanted.arrived > start)


def receive(line: Line, answer: httpx2.Response, wanted: Wanted, report: Report) -> None:
    """Write what comes, behind what is there if the other side says that it continues that."""
    start = wanted.arrived
    continues = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    if start and not continues:
        report(-start)
    with wanted.part.open("ab" if continues else "wb") as part:
        for chunk in answer.iter_raw():
            line.go_on()
            part.write(chunk)
            part.flush()  # what has come survives the end of this process
            report(len(chunk))


def check_status(answer: httpx2.Response, url: str) -> None:
    """Raises what `refuse` raises, with the time that the other side asks for."""
    if answer.status_code not in {200, 206}:
        refuse(url, answer.status_code, answer.headers.get("Retry-After", ""))


def prove(wanted: Wanted, name: str) -> str:
    """The part's sha256, when its bytes are those that its source or the manifest promises. Raises WeightsError."""
    file, remote, size = wanted.part, wanted.remote, wanted.arrived
    if remote.size is not None and size != remote.size:
        raise WeightsError(f"{name} is {size} bytes, expected {remote.size}: {WRONG}")
    digest = sha256_of(file)
    if remote.sha256 and digest != remote.sha256:
        raise WeightsError(f"{name} has sha256 {digest}, expected {remote.sha256}: {WRONG}")
    if remote.blob and not remote.sha256 and (found := git_blob(file)) != remote.blob:
        raise WeightsError(f"{name} has git's hash {found}, expected {remote.blob}: {WRONG}")
    if problem := broken(file, wanted.place.suffix):
        raise WeightsError(f"{name} {problem}")
    return digest


WRONG = "nothing of it was kept. Try again; if it stays so, something between here and there changes what is downloaded"


def git_blob(file: Path) -> str:
    """What git, and so the hub, calls a small file's content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch_archive(line: Line, url: str, wanted: Wanted) -> Path:
    """The whole archive, kept beside the parts for the other files in it."""
    with line.archives:
        archive = replace(wanted, target="archive", remote=look(line, url))
        if not archive.remote.identity:
            archive.part.unlink(missing_ok=True)
        patiently(lambda: stream(line, url, archive, lambda _: None))
    return archive.part


def look(line: Line, url: str) -> Remote:
    """What is told of `url` before it is fetched: its size and version; of one in an archive nothing.

    Raises:
        WeightsError: it is not there.
    """
    address, member = urldefrag(url)
    here = here_is(address)

    def ask() -> Remote:
        try:
            answer = line.client.head(url, headers=line.headers(url))
        except httpx2.HTTPError as error:
            raise unreachable(url, error) from error
        check_status(answer, url)
        length = answer.headers.get("Content-Length", "")
        return Remote(int(length) if length.isdigit() else None, etag=answer.headers.get("ETag", ""))

    found = Remote(here.stat().st_size) if here else patiently(ask)
    return Remote() if member else found


def unpack(archive: Path, member: str, part: Path) -> None:
    """The one file called `member` in an archive, in whichever folder. Raises WeightsError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            (found,) = (one for one in opened.infolist() if PurePosixPath(one.filename).name == member)
            with opened.open(found) as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy, CHUNK)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise WeightsError(f"{archive.name} is broken, or does not hold {member} once ({error}): {WRONG}") from error
