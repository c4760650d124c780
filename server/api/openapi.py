"""Each endpoint's OpenAPI 3.0 document in the layout that fal publishes (fal-protocol.md §9)."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pipelines.endpoint import Endpoint
from server.api.entrance import address_of
from server.api.order import named_endpoint
from server.api.service import ServiceOf, as_json
from server.bodies import QUEUE_PREFIX

REF = "#/components/schemas/"
NULL = {"type": "null"}
URL = {"type": "string", "format": "uri"}
QUEUE_STATUS = {
    "type": "object",
    "title": "QueueStatus",
    "properties": {
        "status": {"type": "string", "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
        "request_id": {"type": "string", "description": "The request id."},
        "response_url": {**URL, "description": "The response url."},
        "status_url": {**URL, "description": "The status url."},
        "cancel_url": {**URL, "description": "The cancel url."},
        "logs": {"type": "array", "nullable": True, "items": {"type": "object"}, "description": "The logs."},
        "metrics": {"type": "object", "additionalProperties": True, "description": "The metrics."},
        "queue_position": {"type": "integer", "description": "The queue position."},
    },
    "required": ["status", "request_id"],
}
REQUEST_ID = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "description": "Request ID"},
}
LOGS = {
    "name": "logs",
    "in": "query",
    "required": False,
    "schema": {"type": "number", "description": "Whether to include logs (`1`) in the response or not (`0`)."},
}

router = APIRouter()


@router.get("/api/openapi/queue/openapi.json")
def by_query(request: Request, service: ServiceOf, endpoint_id: str = "") -> Response:
    """fal's own address of the document; an alias has a document of its own."""
    return document_reply(request, replace(named_endpoint(endpoint_id, service), id=endpoint_id))


@router.get("/{endpoint_id:path}/openapi.json")
def by_path(request: Request, service: ServiceOf, endpoint_id: str) -> Response:
    return by_query(request, service, endpoint_id.removeprefix(QUEUE_PREFIX[1:] + "/"))


def document_reply(request: Request, endpoint: Endpoint) -> Response:
    return Response(as_json(document(endpoint, address_of(request).origin)), media_type="application/json")


def document(endpoint: Endpoint, origin: str) -> dict[str, Any]:
    """The whole document; `origin` is how the reader reached this server."""
    metadata = {
        "endpointId": endpoint.id,
        "category": "image-to-image",
        "playgroundUrl": f"{origin}/?endpoint={endpoint.id}",
        "documentationUrl": f"{origin}/{endpoint.id}/openapi.json",
    }
    return {
        "openapi": "3.0.4",
        "info": {
            "title": f"Queue OpenAPI for {endpoint.id}",
            "version": "1.0.0",
            "description": f"The OpenAPI schema for the {endpoint.id} queue.",
            "x-fal-metadata": metadata,
        },
        "components": {
            "securitySchemes": {
                "apiKeyAuth": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Fal Key"}
            },
            "schemas": schemas(endpoint),
        },
        "paths": paths(endpoint),
        "servers": [{"url": origin + QUEUE_PREFIX}],
        "security": [{"apiKeyAuth": []}],
    }


def camel(endpoint_id: str) -> str:
    """``owner/some-model/fast`` -> ``SomeModelFast``."""
    words = endpoint_id.partition("/")[2].replace("/", "-").split("-")
    return "".join(word.capitalize() for word in words)


def schemas(endpoint: Endpoint) -> dict[str, Any]:
    """QueueStatus, the input, the output, and what they refer to."""
    found: dict[str, Any] = {"QueueStatus": QUEUE_STATUS}
    for model, suffix in ((endpoint.input, "Input"), (endpoint.output, "Output")):
        name = camel(endpoint.id) + suffix
        schema = model.model_json_schema(ref_template=REF + "{model}", by_alias=False)
        definitions = schema.pop("$defs", {})
        found |= {inner: openapi30(definition) for inner, definition in definitions.items()}
        found[name] = openapi30({**schema, "title": name})
    return found


def openapi30(schema: Any) -> Any:
    """JSON Schema 2020-12, which pydantic writes, as an OpenAPI 3.0 schema object."""
    if isinstance(schema, list):
        return [openapi30(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {name: openapi30(value) for name, value in schema.items() if name not in {"const", "examples"}}
    if "const" in schema:
        converted["enum"] = [schema["const"]]
    if isinstance(schema.get("examples"), list) and schema["examples"]:
        converted["example"] = schema["examples"][0]
    if isinstance(schema.get("properties"), dict):
        converted["properties"] = {name: openapi30(value) for name, value in schema["properties"].items()}
        converted["x-fal-order-properties"] = list(schema["properties"])
    exclusive_bounds(converted)
    return nullable(wrapped_reference(converted))


def exclusive_bounds(schema: dict[str, Any]) -> None:
    """``exclusiveMinimum: 0`` is ``minimum: 0, exclusiveMinimum: true`` in OpenAPI 3.0."""
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in schema:
            schema[inclusive], schema[exclusive] = schema[exclusive], True


def wrapped_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.0 ignores whatever stands beside ``$ref``: move the reference into ``allOf``."""
    if "$ref" not in schema or len(schema) == 1:
        return schema
    return {"allOf": [{"$ref": schema.pop("$ref")}], **schema}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """``anyOf: [X, null]`` is ``X`` with ``nullable: true`` in OpenAPI 3.0."""
    choices = schema.get("anyOf")
    if not choices or NULL not in choices:
        return schema
    others = [choice for choice in choices if choice != NULL]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    if len(others) == 1 and "$ref" not in others[0]:
        return {**others[0], **rest, "nullable": True}
    return {"anyOf": others, **rest, "nullable": True}


def paths(endpoint: Endpoint) -> dict[str, Any]:
    """The four paths in fal's order; with the full id, as fal publishes them."""
    one, status = f"/{endpoint.id}/requests/{{request_id}}", {"$ref": REF + "QueueStatus"}
    success = {"type": "object", "properties": {"success": {"type": "boolean"}}}
    given = {"$ref": f"{REF}{camel(endpoint.id)}Input"}
    made = {"$ref": f"{REF}{camel(endpoint.id)}Output"}
    body = {"required": True, "content": {"application/json": {"schema": given}}}
    return {
        f"{one}/status": {
            "get": {"parameters": [REQUEST_ID, LOGS], "responses": answer("The request status.", status)}
        },
        f"{one}/cancel": {
            "put": {"parameters": [REQUEST_ID], "responses": answer("The request was cancelled.", success)}
        },
        f"/{endpoint.id}": {"post": {"requestBody": body, "responses": answer("The request status.", status)}},
        one: {"get": {"parameters": [REQUEST_ID], "responses": answer("Result of the request.", made)}},
    }


def answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"200": {"description": description, "content": {"application/json": {"schema": schema}}}}
