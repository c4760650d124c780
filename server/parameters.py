"""Parameters: what a picture's file says about how it was made, so that it can be made again."""

import json
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import Any

from pipelines.endpoint import Endpoint, Input, Loc

KEYWORD = "parameters"
"""The PNG keyword under which programs that make pictures leave this, and under which others look for it."""


def parameters(endpoint: Endpoint, request: Input, seed: int) -> Mapping[str, str]:
    """PNG keyword -> text for a picture made with `seed`: JSON without any picture of the request, address or data."""
    told = {
        "endpoint": endpoint.id,
        "veraicon": version("veraicon"),
        "seed": seed,
        "input": without(request.model_dump(mode="json"), {field.loc for field in request.images()}),
    }
    return {KEYWORD: json.dumps(told, ensure_ascii=False)}


def without(value: Any, locs: Collection[Loc], at: Loc = ()) -> Any:
    """JSON `value`, which stands at `at`, less what stands at `locs`."""
    if isinstance(value, dict):
        return {name: without(item, locs, (*at, name)) for name, item in value.items() if (*at, name) not in locs}
    if isinstance(value, list):
        return [without(item, locs, (*at, i)) for i, item in enumerate(value) if (*at, i) not in locs]
    return value
