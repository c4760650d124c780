"""Lifecycle: how long a client wants its files kept, and who may read them (fal-protocol.md §4.1)."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from server.errors import BadRequest

UPLOAD_HEADERS = ("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference")
"""JavaScript sends the first with an upload, Python both, with the same value."""
REQUEST_HEADERS = ("X-Fal-Object-Lifecycle-Preference",)
"""What submit and run read: it is about the files that the request will make."""
DECISIONS = ("allow", "hide", "forbid")

Decision = Literal["allow", "hide", "forbid"]


@dataclass(frozen=True)
class Lifecycle:
    """What a client asked for its files.

    Args:
        keep_s: seconds from a file's completion to its end; None: as long as the operator keeps files.
        acl: ``{"default": decision, "rules": {user: decision}}``, a user being the name of an API key; None: whoever
            has a file's unguessable URL may read it.
    """

    keep_s: float | None = None
    acl: dict[str, Any] | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], names: tuple[str, ...]) -> Self | None:
        """The first of the named headers that is there, if any. Raises BadRequest naming one that cannot be read."""
        for name in names:
            text = headers.get(name)
            if text is not None:
                return cls.parse(text, name)
        return None

    def kept_s(self, longest_s: float) -> float:
        """How long a file is kept: as long as the client wants it, and never longer than the operator allows."""
        return longest_s if self.keep_s is None else min(self.keep_s, longest_s)

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """The header's JSON object; what fal's clients never send in it is ignored. Raises BadRequest naming `name`."""
        try:
            wish = json.loads(text)
        except (ValueError, RecursionError):
            raise BadRequest(
                f'{name} must be a JSON object, such as {{"expiration_duration_seconds": 3600}}.'
            ) from None
        if not isinstance(wish, dict):
            raise BadRequest(f"{name} must be a JSON object, not {type(wish).__name__}.")
        return cls(seconds(wish.get("expiration_duration_seconds"), name), access(wish.get("initial_acl"), name))


def seconds(value: Any, name: str) -> float | None:
    """Raises BadRequest unless None or a finite number above 0."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BadRequest(f"{name}: expiration_duration_seconds must be a number of seconds above 0.")
    return float(value)


def access(value: Any, name: str) -> dict[str, Any] | None:
    """Raises BadRequest unless None or ``{"default": decision, "rules": [{"user": …, "decision": …}]}``."""
    if value is None:
        return None
    rules = value.get("rules") or [] if isinstance(value, dict) else None
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise BadRequest(f"{name}: initial_acl must be an object with `default` and a list of `rules`.")
    told = [value.get("default", "allow"), *(rule.get("decision") for rule in rules)]
    if not all(decision in DECISIONS for decision in told):
        raise BadRequest(f"{name}: every decision of initial_acl must be one of {', '.join(DECISIONS)}.")
    if not all(isinstance(rule.get("user"), str) for rule in rules):
        raise BadRequest(f"{name}: every rule of initial_acl must name its `user`.")
    return {"default": told[0], "rules": {rule["user"]: rule["decision"] for rule in rules}}


def decision_for(acl: Mapping[str, Any] | None, owner: str, reader: str | None) -> Decision:
    """Whether `reader` (None: nobody known) may read a file of `owner`, who always may."""
    if acl is None or reader == owner:
        return "allow"
    return acl["rules"].get(reader, acl["default"])
