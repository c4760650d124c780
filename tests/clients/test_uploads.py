"""fal's own clients upload: fal-protocol.md §4, and §10 statements 67 to 78."""

import re
from pathlib import Path

from tests.clients.matrix import feature

PICTURE = Path(__file__).parents[1] / "data" / "coffee.png"
PART_LIMIT_MIB = {"js": 90, "py": 100}
"""Above this the clients send parts of 10 MiB."""


def check_upload(client, names, server, mib: int) -> None:
    url = client.run("upload", {"mib": mib}, names.environment)["url"]
    answer = server.wire.follow(url, timeout_s=120)

    assert re.match(r"https://(v3\.fal\.media|rest\.fal\.ai|rest\.alpha\.fal\.ai)/files/", url)
    assert answer.body == bytes([7]) * (mib * 2**20)
    assert answer.content_type == "text/plain"


@feature("upload")
def test_a_file_arrives_whole_and_can_be_fetched(client, names, tls_server):
    """67, 68, 69, 72, 73, 76: over the host names that are constants in each client."""
    check_upload(client, names, tls_server, 1)

    rest = "rest.fal.ai" if client.id in {"js-1.10.1", "py-1.0.3"} else "rest.alpha.fal.ai"
    assert names.asked & {"rest.fal.ai", "rest.alpha.fal.ai"} == {rest}


@feature("upload in parts")
def test_a_large_file_arrives_whole_in_parts(client, names, tls_server):
    """70, 71, 74: JavaScript sends them one by one, Python ten at a time."""
    check_upload(client, names, tls_server, PART_LIMIT_MIB[client.id[:2]] + 1)


@feature("File in the input")
def test_a_file_among_the_input_is_uploaded_and_read(client, names, instantid_input):
    """77."""
    given = {"endpoint": "fal-ai/instantid/lcm", "input": instantid_input, "file": str(PICTURE)}
    answer = client.run("file", given, names.environment)

    assert (answer["data"]["image"]["width"], answer["data"]["image"]["height"]) == (600, 400)
    assert "rest.fal.ai" in names.asked or "rest.alpha.fal.ai" in names.asked
