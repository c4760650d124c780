"""The program that compiles before anybody asks: what it asks for, and what it says when it cannot."""

from pathlib import Path

import pytest

from pipelines import warm
from pipelines.catalog import CATALOG
from pipelines.selftest import request_of
from tests.server_process import veraicon


def test_every_endpoint_is_asked_for_the_size_that_was_given() -> None:
    assert warm.SIZES.keys() == {endpoint.id for endpoint in CATALOG}
    instantid, pulid = (warm.at_size(request_of(endpoint), (640, 960)) for endpoint in CATALOG)
    assert instantid.size == (640, 960)
    assert (pulid.width, pulid.height) == (640, 960)


@pytest.mark.parametrize("text", ["960", "960x", "x960", "960x1281", "axb"])
def test_what_is_no_size_is_refused_with_an_example(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        warm.main(["root", "--cache", "cache", "--size", text])
    assert ended.value.code == 2
    assert "like 960x1280" in capsys.readouterr().err


def test_missing_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warm.main([str(tmp_path), "--cache", str(tmp_path / "cache"), "--device", "cpu"]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_the_command_passes_on_what_the_program_says(tmp_path: Path) -> None:
    done = veraicon(tmp_path, "warm", "--size", "640x960", weights="full", device="cpu")
    assert done.returncode == 1
    assert f"{tmp_path}/weights" in done.stderr
    assert veraicon(tmp_path, "warm", "--size", "axb", weights="full", device="cpu").returncode == 2
