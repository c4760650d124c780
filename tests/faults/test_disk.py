"""A disk that is full when a picture is to be stored."""

from collections.abc import Iterator

import pytest

from tests.faults.small_disk import SmallDiskSite
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
