"""A disk that is full when a picture is to be stored, and one that is full when a request is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.site import PULID
from tests.faults.small_disk import SIZE_MB, SmallDiskSite, veraicon_beside
from tests.room_server import RoomServer
from tests.wire_checks import assert_is_request_error
from tests.worker_process import eventually


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, face_photo: str) -> Iterator[SmallDiskSite]:
    with SmallDiskSite(tmp_path_factory.mktemp("site"), face_photo) as site:
        yield site


def test_a_disk_that_stays_full_fails_the_request_and_the_readiness_until_it_is_freed(site, scene, other_scene):
    """row 17: a picture is tried to store for a while; then the request fails, and later ones succeed again."""
    failing, patient = site.run(scene, step=2), site.submit(other_scene)
    site.fill_disk()
    scene.release()
    told = eventually(site.why_not_ready)
    result = site.finish(failing)
    site.free_disk()
    eventually(site.server.is_ready)

    assert str(site.server.mount_point) in told
    assert "make room" in told
    assert result.status >= 500
    assert result.headers["x-fal-error-type"]
    assert "stored yet" in site.server.log
    assert site.finish(patient).status == 200
    assert site.finish(site.submit()).status == 200


@pytest.fixture
def room(site: SmallDiskSite, tmp_path: Path) -> Iterator[RoomServer]:
    """A server all of whose data, the database too, is on one small disk; it needs no key."""
    settings = {name: value for name, value in site.settings.items() if name != "database_url"}
    with RoomServer(tmp_path, size_mb=SIZE_MB, **settings) as room:
        yield room


def test_a_full_disk_acknowledges_nothing_and_the_portrait_amid_its_steps_is_done_when_it_is_freed(site, scene, room):
    """row 18: neither the photo nor the row finds room; nothing of a refused request stays."""
    scene.hold(2)
    running = room.wire.submit(PULID, site.portrait(scene))
    scene.wait_for(step=2)
    filler = room.fill_disk()
    for body in (site.portrait(), {"prompt": "an input that is refused is stored as well"}):
        assert_takes_nothing(room, body)
    told = room.wire.get("/ready", host=None).json["reasons"]
    scene.release()
    filler.unlink()
    later = room.wire.submit(PULID, site.portrait())
    results = [room.wire.finish(request) for request in (running, later)]

    assert any("disk" in reason for reason in told)
    assert {result.status for result in results} == {200}
    listed, audited = (veraicon_beside(room, *words) for words in (("requests", "list"), ("queue", "audit")))
    assert set(re.findall(r"[0-9a-f-]{36}", listed.stdout)) == {each["request_id"] for each in (running, later)}
    assert audited.returncode == 0, audited.stdout


def assert_takes_nothing(room: RoomServer, body: dict[str, Any]) -> None:
    refused = room.wire.post(f"/{PULID}", body)
    assert_is_request_error(refused, 503, "service_unavailable")
    assert int(refused.headers["retry-after"]) > 0
