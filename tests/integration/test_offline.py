"""Installed from a bundle where there is no network, it serves both endpoints and never tries to reach the outside."""

import re


def test_a_room_without_network_goes_from_the_bundle_to_two_portraits(sealed):
    """row 84: it starts and serves, and what it leaves fits together."""
    portraits = sealed.report["portraits"]
    assert set(portraits) == {"fal-ai/instantid/lcm", "fal-ai/pulid"}
    for picture in portraits.values():
        assert picture["png"] == b"\x89PNG\r\n\x1a\n".hex()
        assert picture["width"] == 256
    assert sealed.report["exit_code"] == 0, sealed.report["log"]
    assert "agree with each other" in sealed.report["audit"]


def test_nothing_tries_to_leave_the_room_and_the_count_would_show_it(sealed):
    """row 84: counted by the room's own kernel tables."""
    assert sealed.report["attempts"] == 0, sealed.report["log"]
    assert sealed.report["attempts_with_one_more"] > 0


def test_what_runs_is_the_installed_application_not_the_checkout(sealed):
    assert len(sealed.report["modules"]) == 3
    assert all(path.startswith(str(sealed.folder / "venv")) for path in sealed.report["modules"])


def test_every_serving_process_keeps_its_libraries_offline_whatever_the_environment_says(sealed):
    assert sealed.report["offline"] == {"server.http": True, "server.worker": True}


def test_both_sides_show_the_same_hash_of_the_index(sealed):
    numbers = [set(re.findall(r"index sha256 ([0-9a-f]{64})", sealed.report[side])) for side in ("bundle", "install")]
    assert len(numbers[0]) == 1
    assert numbers[0] == numbers[1]
