"""Writes docs/fal-compatibility.md: each statement about the protocol, and the tests whose docstring names it first."""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
STATEMENTS = ROOT / "docs" / "fal-statements.txt"
DIFFERENCES = ROOT / "docs" / "fal-differences.toml"
TARGET = ROOT / "docs" / "fal-compatibility.md"
NUMBERS = re.compile(r"((?:\d+(?:[-–]\d+)?(?:, | and )?)+)[.:]")

HEAD = """# fal compatibility

What Veraicon promises about fal's wire protocol, one statement a line, and the tests that prove it: against a real
server process, by raw sockets or by fal's own clients; some have a test of one part beside. Generated from the tests'
docstrings by scripts/make_compatibility.py.

A statement without a test may well hold; nobody has proven it yet.
"""


def main() -> None:
    TARGET.write_text(render())


def render() -> str:
    """The page as it should be now."""
    proofs = collect()
    lines, proven = [], 0
    for line in STATEMENTS.read_text().splitlines():
        if line.startswith("# "):
            lines += ["", f"## {line[2:]}", "", "| | statement | proven by |", "|---|---|---|"]
            continue
        number, _, text = line.partition(". ")
        names = proofs.get(int(number), [])
        proven += bool(names)
        lines.append(f"| {number} | {text.replace('|', '/')} | {'<br>'.join(names)} |")
    summary = f"{proven} of 109 statements have a test of their own."
    return "\n".join([HEAD, *differences(), "", summary, *lines]) + "\n"


def differences() -> Iterator[str]:
    """What is deliberately not as on fal, each with its reason."""
    yield from ("## Deliberate differences", "", "| what | why |", "|---|---|")
    for one in tomllib.loads(DIFFERENCES.read_text())["difference"]:
        yield f"| {one['what']} | {one['why']} |"


def collect() -> dict[int, list[str]]:
    """Statement number -> tests, as ``file::test``."""
    proofs: dict[int, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                for number in numbers(ast.get_docstring(function) or ""):
                    proofs[number].append(f"`{path.stem}::{function.name}`")
    return proofs


def numbers(docstring: str) -> Iterator[int]:
    """55 and 57, 58, 59 of ``55, 57-59: the worker is free.``"""
    match = NUMBERS.match(docstring)
    for part in re.findall(r"\d+(?:[-–]\d+)?", match[1]) if match else ():
        first, _, last = re.sub("–", "-", part).partition("-")
        yield from range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    main()
