"""The published documents, health and the page: fal-protocol.md §9, §10 statements 105 and 106."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.catalog import CATALOG
from tests.app import running_app

IDS = pytest.mark.parametrize("endpoint_id", [endpoint.id for endpoint in CATALOG])
SCHEMA_KEYS = {
    "title", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength",
    "pattern", "maxItems", "minItems", "uniqueItems", "maxProperties", "minProperties", "required", "enum", "type",
    "not", "allOf", "oneOf", "anyOf", "items", "properties", "additionalProperties", "description", "format",
    "default", "nullable", "discriminator", "readOnly", "writeOnly", "example", "externalDocs", "deprecated", "xml",
}  # fmt: skip
"""OpenAPI 3.0.4 §4.7.24: a schema object has these, ``$ref`` alone, and ``x-…``; ``examples`` and ``const`` are 3.1."""
PULID_ORDER = [
    "reference_images", "prompt", "negative_prompt", "num_images", "guidance_scale", "num_inference_steps", "seed",
    "image_size", "id_scale", "mode", "id_mix",
]  # fmt: skip


def document(wire: Any, endpoint_id: str) -> dict[str, Any]:
    answer = wire.get(f"/api/openapi/queue/openapi.json?endpoint_id={endpoint_id}", host="fal.ai")
    assert answer.status == 200
    return answer.json


def check_schema(schema: Any) -> None:
    """That this is a schema object of OpenAPI 3.0."""
    if "$ref" in schema:
        assert list(schema) == ["$ref"]
        return
    unknown = {key for key in schema if key not in SCHEMA_KEYS and not key.startswith("x-")}
    assert not unknown, schema
    assert isinstance(schema.get("type", ""), str)
    assert isinstance(schema.get("exclusiveMinimum", False), bool)
    assert schema.get("type") != "array" or "items" in schema
    for inner in (*schema.get("anyOf", ()), *schema.get("allOf", ()), *schema.get("properties", {}).values()):
        check_schema(inner)
    if "items" in schema:
        check_schema(schema["items"])


@IDS
def test_every_schema_is_openapi_3_0(wire, endpoint_id):
    """105."""
    schemas = document(wire, endpoint_id)["components"]["schemas"]

    for schema in schemas.values():
        check_schema(schema)
    for reference in re.findall(r"#/components/schemas/(\w+)", str(schemas)):
        assert reference in schemas


@IDS
def test_the_document_has_fals_layout(wire, endpoint_id):
    """105."""
    found = document(wire, endpoint_id.replace("/", "%2F"))

    assert found["openapi"] == "3.0.4"
    assert found["info"]["title"] == f"Queue OpenAPI for {endpoint_id}"
    assert found["info"]["x-fal-metadata"]["endpointId"] == endpoint_id
    assert list(found["paths"]) == [
        f"/{endpoint_id}/requests/{{request_id}}/status",
        f"/{endpoint_id}/requests/{{request_id}}/cancel",
        f"/{endpoint_id}",
        f"/{endpoint_id}/requests/{{request_id}}",
    ]
    assert [next(iter(path)) for path in found["paths"].values()] == ["get", "put", "post", "get"]
    assert found["components"]["securitySchemes"]["apiKeyAuth"]["name"] == "Authorization"
    assert found["security"] == [{"apiKeyAuth": []}]


def test_fields_are_named_in_fals_order(wire):
    """106."""
    pulid = document(wire, "fal-ai/pulid")["components"]["schemas"]
    instantid = document(wire, "fal-ai/instantid/lcm")["components"]["schemas"]["InstantidLcmInput"]

    assert pulid["PulidInput"]["x-fal-order-properties"] == PULID_ORDER
    assert pulid["PulidInput"]["required"] == ["reference_images", "prompt"]
    assert instantid["required"] == ["face_image_url", "prompt"]
    assert instantid["x-fal-order-properties"][:3] == ["face_image_url", "prompt", "style"]


def test_bounds_and_nulls_are_written_the_3_0_way(wire):
    pulid = document(wire, "fal-ai/pulid")["components"]["schemas"]["PulidInput"]["properties"]

    assert (pulid["id_scale"]["minimum"], pulid["id_scale"]["exclusiveMinimum"]) == (0, True)
    assert pulid["id_scale"]["maximum"] == 5
    assert (pulid["seed"]["type"], pulid["seed"]["nullable"]) == ("integer", True)


@IDS
def test_the_document_is_beside_the_endpoint_too(wire, endpoint_id):
    answer = wire.get(f"/{endpoint_id}/openapi.json", host="fal.run")

    assert answer.json["info"]["title"] == f"Queue OpenAPI for {endpoint_id}"
    assert wire.get(f"/{endpoint_id}/openapi.json").json["paths"] == answer.json["paths"]


@pytest.mark.parametrize("query", ["", "?endpoint_id=", "?endpoint_id=fal-ai/nothing"])
def test_the_document_of_nothing_is_404(wire, query):
    answer = wire.get(f"/api/openapi/queue/openapi.json{query}", host="fal.ai")

    assert answer.status == 404
    assert answer.json["detail"]


def test_health_needs_no_worker_and_readiness_names_the_reason(tmp_path):
    with running_app(tmp_path) as (client, _):
        health, ready = client.get("/health"), client.get("/ready")

    assert (health.status_code, health.json()) == (200, {})
    assert ready.status_code == 503
    assert "veraicon worker" in ready.json()["reasons"][0]


def test_a_server_with_a_worker_is_ready(wire):
    answer = wire.get("/ready", host=None)

    assert answer.status == 200
    assert answer.json["reasons"] == []


def test_metrics_count_requests_by_route_and_name_no_request(wire, pulid_input):
    request = wire.submit("fal-ai/pulid", pulid_input)
    wire.finish(request)
    text = wire.get("/metrics", host=None).body.decode()

    assert re.search(r'veraicon_http_requests_total\{route="/queue/\{endpoint_id:path\}",status="200"\} [1-9]', text)
    assert re.search(r'veraicon_jobs\{state="COMPLETED"\} [1-9]', text)
    assert re.search(r'veraicon_worker\{device="cpu",state="ready"\} 1.0', text)
    assert request["request_id"] not in text


def test_the_page_loads_nothing_from_elsewhere(wire):
    page = wire.get("/", host=None)
    assert wire.get("/", host="queue.fal.run").body == page.body
    named = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())

    assert page.status == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert named
    for path in named:
        assert path.startswith("/web/")
        assert wire.get(path, host=None).status == 200
    web = Path(__file__).parents[2] / "server" / "web"
    for file in web.iterdir():
        addresses = re.findall(r"\b(?:https?|wss?):[^\s\"']*", file.read_text())
        assert [address for address in addresses if address != "http://www.w3.org/2000/svg"] == []


def test_every_module_that_the_page_imports_is_served_as_javascript(wire):
    for name in ("main.js", "form.js", "api.js"):
        answer = wire.get(f"/web/{name}", host=None)
        assert answer.content_type in {"text/javascript", "application/javascript"}
        for imported in re.findall(r'from "\./([^"]+)"', answer.body.decode()):
            assert wire.get(f"/web/{imported}", host=None).status == 200


def test_the_page_learns_that_the_profile_is_tiny(wire):
    answer = wire.get("/api/endpoints", host=None)

    assert answer.json["weights"] == "tiny"
    assert "fal-ai/pulid" in [endpoint["id"] for endpoint in answer.json["endpoints"]]
