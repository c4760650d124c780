"""The snippets of fal's own pages for both endpoints, word for word, on a machine whose DNS leads to this server.

The real pipelines on tiny weights answer. The clients are given a key and an authority, and nothing else.
"""

import pytest

from tests.clients.client import CLIENTS
from tests.clients.island import visit, way_in

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What every snippet did there."""
    for client in CLIENTS:
        if not client.old:
            client.require()
    try:
        way_in()
    except OSError as error:
        pytest.skip(f"{error}. Run as root, or allow user namespaces: they are what proves the drop-in as a whole")
    return visit(tmp_path_factory.mktemp("island"))


@pytest.mark.parametrize("snippet", ["instantid-subscribe", "instantid-subscribe 0.10.2", "pulid-subscribe"])
def test_the_published_subscribe_prints_its_log_messages(island, snippet):
    """1, 36: JS015, JS010 and JS110."""
    done = island[snippet]

    assert done["code"] == 0, done["errors"]
    assert "Preparing 0 [" in done["out"]  # forEach hands console.log the index and the list, too
    assert ("images: [" in done["out"]) == snippet.startswith("pulid")


def test_the_published_submit_status_and_result_follow_one_request_to_its_webhook(island):
    """11, 28, 45, 87: the webhook's host is one that the operator allowed."""
    (webhook,) = island["webhooks"]

    assert (webhook["path"], webhook["status"]) == ("/for/results", "OK")
    for snippet in ("pulid-submit", "pulid-status", "pulid-result"):
        assert island[snippet]["code"] == 0, island[snippet]["errors"]
    assert webhook["payload"]["images"][0]["url"] in island["pulid-result"]["out"]
    assert island["pulid-result"]["out"].strip().endswith(island["id"])


@pytest.mark.parametrize("snippet", ["instantid-credentials", "pulid-credentials", "pulid-upload"])
def test_the_published_set_up_and_upload_end_well(island, snippet):
    """67: on the host that is a constant in the client."""
    assert island[snippet]["code"] == 0, island[snippet]["errors"]


def test_the_published_upload_for_instantid_fails_as_its_page_wrote_it(island):
    """48, 68: it uploads, and then calls `subscribe` without `input`, so that the client sends no body at all."""
    done = island["instantid-upload"]

    assert done["code"] == 1
    assert "ValidationError: Unprocessable Entity" in done["errors"]
    assert "loc: [ 'body' ]" in done["errors"]


@pytest.mark.parametrize("client", ["py-1.0.3", "py-0.7.0"])
def test_python_needs_no_more_than_a_key_and_an_authority(island, client):
    """1, 36."""
    done = island[client]

    assert done["code"] == 0, done["errors"]
    assert '"width": 256' in done["out"]
