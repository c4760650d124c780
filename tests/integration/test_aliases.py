"""Other ids of fal's for the same endpoint: reachable when the operator switches them on, unknown when not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.catalog import CATALOG
from tests.conftest import PUBLISHED
from tests.server_process import ServerProcess
from tests.wire import QUEUE, RUN, Wire

ALIASES = ["fal-ai/instantid", "fal-ai/instantid/standard"]
EXTRA = {"enable_lcm": True, "image_size": "square_hd", "num_images": 2, "enable_safety_checker": False}


@pytest.fixture(scope="module")
def switched_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    folder: Path = tmp_path_factory.mktemp("aliases")
    with ServerProcess(folder, catalog=PUBLISHED, aliases="true") as server:
        yield server.wire


def test_the_catalog_knows_the_siblings_that_public_code_calls() -> None:
    assert [alias for endpoint in CATALOG for alias in endpoint.aliases] == ALIASES


@pytest.mark.parametrize("host", [QUEUE, RUN])
@pytest.mark.parametrize("alias", ALIASES)
def test_switched_off_an_alias_is_an_unknown_application(wire: Wire, alias: str, host: str, instantid_input) -> None:
    answer = wire.post(f"/{alias}", instantid_input, host=host)
    assert answer.status == 404
    assert wire.get(f"/{alias}/openapi.json", host=None).status == 404
    assert wire.get(f"/api/openapi/queue/openapi.json?endpoint_id={alias}", host=None).status == 404


def test_switched_off_requests_are_found_under_the_published_paths_only(wire: Wire, instantid_input) -> None:
    request = wire.submit("fal-ai/instantid/lcm", instantid_input)
    wire.finish(request)
    found = {
        name: wire.get(f"/{name}/requests/{request['request_id']}").status
        for name in ("fal-ai/instantid", "fal-ai/instantid/lcm", "fal-ai/instantid/standard")
    }
    assert found == {"fal-ai/instantid": 200, "fal-ai/instantid/lcm": 200, "fal-ai/instantid/standard": 404}


@pytest.mark.parametrize("alias", ALIASES)
def test_switched_on_an_alias_queues_and_answers_under_its_own_path(
    switched_on: Wire, alias: str, instantid_input
) -> None:
    """Fields that only the sibling has are ignored, as fal does with unknown ones."""
    request = switched_on.submit(alias, instantid_input | EXTRA)
    assert switched_on.finish(request).json["seed"] == 1
    for name in (alias, "fal-ai/instantid", "fal-ai/instantid/lcm"):
        path = f"/{name}/requests/{request['request_id']}"
        assert switched_on.get(f"{path}/status").json["status"] == "COMPLETED"
        assert switched_on.get(path).json["seed"] == 1
        assert switched_on.put(f"{path}/cancel").json == {"status": "ALREADY_COMPLETED"}


@pytest.mark.parametrize("alias", [*ALIASES, "fal-ai/instantid/lcm"])
def test_switched_on_an_alias_runs(switched_on: Wire, alias: str, instantid_input) -> None:
    answer = switched_on.post(f"/{alias}", instantid_input | EXTRA, host=RUN)
    assert (answer.status, set(answer.json)) == (200, {"image", "seed"})


@pytest.mark.parametrize("alias", ALIASES)
def test_switched_on_an_alias_has_its_own_openapi_document(switched_on: Wire, alias: str) -> None:
    documents = [
        switched_on.get(path, host=None).json
        for path in (f"/{alias}/openapi.json", f"/api/openapi/queue/openapi.json?endpoint_id={alias}")
    ]
    assert documents[0] == documents[1]
    assert documents[0]["info"]["x-fal-metadata"]["endpointId"] == alias
    assert f"/{alias}" in documents[0]["paths"]


def test_switched_on_what_is_below_an_alias_is_still_unknown(switched_on: Wire, instantid_input) -> None:
    assert switched_on.post("/fal-ai/instantid/turbo", instantid_input).status == 404


def test_switched_on_the_playground_offers_each_model_once(switched_on: Wire) -> None:
    offered = [endpoint["id"] for endpoint in switched_on.get("/api/endpoints", host=None).json["endpoints"]]
    assert [name for name in offered if name.startswith("fal-ai/")].count("fal-ai/instantid/lcm") == 1
    assert not set(ALIASES) & set(offered)
