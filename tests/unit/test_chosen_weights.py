"""--weights takes a profile or a folder, and follows what was installed in the folder."""

import json

import pytest
import typer

from server.cli.options import chosen_weights
from weights.install import RECORD, tiny_weights
from weights.parts import BundleError
from weights.store import tiny_root


@pytest.mark.parametrize("profile", ["full", "tiny"])
def test_a_folder_is_served_as_what_was_installed_there(tmp_path, profile):
    note = {"sha256": "0" * 64, "profile": profile, "application": "0.1.0", "date": "2026-11-21"}
    (tmp_path / RECORD).write_text(json.dumps(note))
    assert chosen_weights(str(tmp_path)) == {"weights": profile, "weights_dir": tmp_path}
    assert tiny_weights(tmp_path) == (tmp_path if profile == "tiny" else tiny_root())


def test_a_folder_without_a_note_holds_full_weights_that_somebody_placed(tmp_path):
    assert chosen_weights(str(tmp_path)) == {"weights": "full", "weights_dir": tmp_path}
    assert tiny_weights(tmp_path) == tiny_root()
    assert tiny_weights(None) == tiny_root()


def test_a_profile_is_itself():
    assert [chosen_weights(word) for word in ("full", "tiny", None)] == [
        {"weights": "full"},
        {"weights": "tiny"},
        {"weights": None},
    ]


def test_anything_else_is_refused(tmp_path):
    with pytest.raises(typer.BadParameter, match="is neither full, tiny nor a folder"):
        chosen_weights(str(tmp_path / "nowhere"))
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(BundleError, match=r"is damaged .*: install the bundle again"):
        chosen_weights(str(tmp_path))
