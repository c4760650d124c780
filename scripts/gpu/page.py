"""A run's records as a page of Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def render(records: Sequence[Record]) -> str:
    """The page: the machine, the ceilings, what had to hold, a table per model, and what is missing."""
    machine = next((r for r in records if r["kind"] == "machine"), {})
    lines = [f"# On a GPU: {machine.get('card', 'unknown card')}, {machine.get('date', '')}", ""]
    lines += ["Written by `make gpu-check`; random weights of the real sizes, each figure a median.", ""]
    lines += [f"- {key}: {value}" for key, value in machine.items() if key not in {"kind", "card", "date"}]
    for title, section in (("Ceilings", ceilings), ("Checks", checks), ("Times", tables), ("Not measured", gaps)):
        found = list(section(records))
        lines += ["", f"## {title}", "", *(found or ["Nothing."])]
    return "\n".join(lines) + "\n"


def ceilings(records: Sequence[Record]) -> Iterator[str]:
    for r in records:
        if r["kind"] == "ceiling":
            yield f"- {r['name']}: {r['value']:.4g} {r['unit']}"


def checks(records: Sequence[Record]) -> Iterator[str]:
    found = [r for r in records if r["kind"] == "check"]
    if found:
        yield from ("| check | error | at most | |", "|---|---|---|---|")
    for r in found:
        yield f"| {r['name']} {r['note']} | {r['error']:.2e} | {r['bar']:.2e} | {'ok' if r['ok'] else '**failed**'} |"


def tables(records: Sequence[Record]) -> Iterator[str]:
    rows = [r for r in records if r["kind"] == "row"]
    for model in dict.fromkeys(r["model"] for r in rows):
        yield from ("", f"### {model}", "")
        yield from table([r for r in rows if r["model"] == model])


def table(rows: Sequence[Record]) -> Iterator[str]:
    """Rows by columns; the 90th percentile in brackets."""
    columns = list(dict.fromkeys(r["column"] for r in rows))
    names = list(dict.fromkeys(f"{r['name']}, {r['unit']}" if r["unit"] else r["name"] for r in rows))
    cells = {(f"{r['name']}, {r['unit']}" if r["unit"] else r["name"], r["column"]): cell(r) for r in rows}
    yield f"| | {' | '.join(columns)} |"
    yield "|---|" + "---|" * len(columns)
    for name in names:
        yield f"| {name} | {' | '.join(cells.get((name, column), '') for column in columns)} |"


def cell(row: Record) -> str:
    value = f"{row['value']:.3g}" if abs(row["value"]) < 100 else f"{row['value']:.0f}"
    return value if row["p90"] is None else f"{value} ({row['p90']:.3g})"


def gaps(records: Sequence[Record]) -> Iterator[str]:
    for r in records:
        if r["kind"] in {"failure", "skipped"}:
            yield f"- {r['name']}: {r['why']}"
