"""docs/models: every field of the API is in its page's table, with the schema's own default and range."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.endpoint import Endpoint
from pipelines.instantid.endpoint import INSTANTID_LCM
from pipelines.pulid.endpoint import NEGATIVE_PROMPT, PULID

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| (.*?) \| (.*?) \| .+ \|$", re.MULTILINE)
PAGES = {"instantid": INSTANTID_LCM, "pulid": PULID}
COUNTED = "one of eleven"


def table(page: str) -> dict[str, tuple[str, str]]:
    """Field -> (range, default), as the page has them."""
    text = (ROOT / f"docs/models/{page}.md").read_text("utf-8").partition("## Settings")[0]
    return {name: (reach, default) for name, reach, default in ROW.findall(text)}


def schema(endpoint: Endpoint) -> dict[str, dict[str, Any]]:
    return endpoint.input.model_json_schema()["properties"]


def default_of(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "required"
    if field["default"] == NEGATIVE_PROMPT:
        return "fal's own"
    return "null" if field["default"] is None else f"`{json.dumps(field['default'])}`"


def range_of(field: dict[str, Any]) -> str | None:
    """The range in words; None for a field with no simple one, whose words are free."""
    kinds = field.get("anyOf", [field])
    number = next((kind for kind in kinds if kind.get("type") in {"integer", "number"}), None)
    if number:
        least = f"above {number['exclusiveMinimum']:g}," if "exclusiveMinimum" in number else f"{number['minimum']}"
        return (
            f"{least.replace('.0', '')} to {number['maximum']:.15g}"
            if number["type"] == "number"
            else (f"{number['minimum']} to {number['maximum']}")
        )
    choices = [choice for kind in kinds for choice in kind.get("enum", ())]
    if choices and "image_size" not in field.get("title", "").lower().replace(" ", "_"):
        words = [f'`"{choice}"`' for choice in choices] + ["null"] * any(kind.get("type") == "null" for kind in kinds)
        return COUNTED if len(choices) == 11 else ", ".join(words)
    if field.get("type") == "array":
        return f"list, at least {field['minItems']}"
    return {"boolean": "true, false", "string": "text"}.get(kinds[0].get("type", ""))


@pytest.mark.parametrize("page", PAGES)
def test_the_table_has_every_field_and_no_other(page: str) -> None:
    assert list(table(page)) == list(schema(PAGES[page]))


@pytest.mark.parametrize("page", PAGES)
def test_defaults_and_ranges_are_those_of_the_schema(page: str) -> None:
    for name, field in schema(PAGES[page]).items():
        reach, default = table(page)[name]
        assert default == default_of(field), name
        assert range_of(field) in (reach, None), name
