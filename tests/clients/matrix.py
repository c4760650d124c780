"""The table client × feature: which tests enter it, and how it is printed at the end of a run."""

from collections.abc import Callable, Mapping

import pytest

from tests.clients.client import CLIENTS

LEGEND = "-: this client does not have it; blank: run by `make test-clients`"
Outcomes = Mapping[tuple[str, str], str]
"""(feature, client id) -> passed, failed or skipped."""


def feature(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test with every client that has the feature; its argument `client` is that client."""
    clients = [
        pytest.param(client, id=client.id, marks=pytest.mark.old_client if client.old else ())
        for client in CLIENTS
        if name not in client.lacks
    ]

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        return pytest.mark.feature(name)(pytest.mark.parametrize("client", clients)(test))

    return mark


def table(outcomes: Outcomes) -> list[str]:
    """One line a feature, in the order of the tests."""
    features = list(dict.fromkeys(name for name, _ in outcomes))
    width = max(map(len, features), default=0)
    lines = [" " * width + "".join(f"{client.id:>11}" for client in CLIENTS)]
    for name in features:
        cells = (cell(outcomes.get((name, client.id)), name in client.lacks) for client in CLIENTS)
        lines.append(f"{name:<{width}}" + "".join(f"{text:>11}" for text in cells))
    return [*lines, LEGEND]


def cell(outcome: str | None, lacking: bool) -> str:
    if lacking:
        return "-"
    return {"passed": "pass", "failed": "FAIL", "skipped": "NOT RUN", None: ""}[outcome]
