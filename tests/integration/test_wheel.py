"""The wheel of this working tree: its data travels with it, and nothing else does."""

import zipfile

import pytest


@pytest.fixture(scope="module")
def names(wheelhouse) -> set[str]:
    """What the one wheel of ours holds."""
    (wheel,) = wheelhouse.glob("veraicon-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_the_three_packages_with_their_data(names):
    for file in ("weights/manifest.toml", "weights/tiny/antelopev2/glintr100.onnx", "server/web/index.html"):
        assert file in names
    assert "pipelines/instantid/styles.json" in names


def test_nothing_but_the_three_packages_travels(names):
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"server", "pipelines", "weights"}


def test_both_endpoints_answer_from_the_installed_wheel(sealed):
    assert set(sealed.report["portraits"]) == {"fal-ai/instantid/lcm", "fal-ai/pulid"}
    assert (sealed.folder / "venv" / "bin" / "veraicon").is_file()
