"""Docs checks of `make check`: links lead somewhere, commands, settings, metrics exist, generated parts are current."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from scripts import make_compatibility, make_faults, metric_names
from server.settings import PREFIX, Settings
from weights.licences import render
from weights.manifest import read_manifest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
COMMAND = re.compile(r"\bveraicon ((?:[a-z]+(?:-[a-z]+)* ?)+)")
SETTING = re.compile(rf"\b{PREFIX}([A-Z_]+)\b")
TARGET = re.compile(r"`?make ([a-z-]+)")
METRIC = re.compile(r"^\| `([a-z_]+)`", re.MULTILINE)


def main() -> int:
    problems = [problem for page in PAGES for problem in check(page)]
    problems += [*stale(), *undescribed((ROOT / "docs" / "metrics.md").read_text())]
    for problem in problems:
        print(f"docs: {problem}", file=sys.stderr)
    return bool(problems)


def check(page: Path) -> Iterator[str]:
    """What is untrue on one page."""
    text, name = page.read_text(), page.relative_to(ROOT)
    for target in LINK.findall(text):
        if not (page.parent / target).exists():
            yield f"{name}: the link to {target} leads nowhere"
    for setting in set(SETTING.findall(text)) - {field.upper() for field in Settings.model_fields}:
        yield f"{name}: there is no setting {PREFIX}{setting}"
    for target in set(TARGET.findall(code(text))) - make_targets():
        yield f"{name}: there is no `make {target}`"
    for words in set(COMMAND.findall(code(text))):
        if not known_command(words.split()):
            yield f"{name}: there is no command `veraicon {words.strip()}`"


def code(text: str) -> str:
    """The page's code blocks and code words, where a command is meant as one."""
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))])


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def known_command(words: list[str]) -> bool:
    """Whether the command line tool knows the first word, and the second where the first has sub-commands."""
    return any(" ".join(words[:n]) in commands() for n in (1, 2))


@cache
def commands() -> frozenset[str]:
    return frozenset(list_commands())


def list_commands() -> Iterator[str]:
    """Every command, read from the tool's own help."""
    for name in help_names():
        subcommands = list(help_names(name))
        yield from (f"{name} {sub}" for sub in subcommands)
        if not subcommands:
            yield name


def help_names(*words: str) -> Iterator[str]:
    program = [sys.executable, "-m", "server.cli", *words, "--help"]
    text = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    section = text.partition("Commands")[2]
    yield from re.findall(r"^[│\s]+([a-z][a-z-]+)\s{2,}", section, re.MULTILINE)


def undescribed(text: str) -> Iterator[str]:
    """Metrics that the page does not describe, and those that it describes and nobody makes."""
    described, made = set(METRIC.findall(text)), metric_names.names()
    for name in sorted(made - described):
        yield f"docs/metrics.md: the metric {name} is not described"
    for name in sorted(described - made):
        yield f"docs/metrics.md: there is no metric {name}"


def stale() -> Iterator[str]:
    """Generated documents that are not what their source says."""
    program = [sys.executable, "-m", "server.cli", "settings", "--markdown"]
    settings = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    if (ROOT / "docs" / "settings.md").read_text() != settings:
        yield "docs/settings.md is stale: .venv/bin/veraicon settings --markdown > docs/settings.md"
    if (ROOT / "LICENCES.md").read_text() != render(read_manifest()):
        yield "LICENCES.md is stale: .venv/bin/python -m scripts.make_licences"
    if make_compatibility.TARGET.read_text() != make_compatibility.render():
        yield "docs/fal-compatibility.md is stale: .venv/bin/python -m scripts.make_compatibility"
    if make_faults.TARGET.read_text() != make_faults.render():
        yield "docs/faults.md is stale: .venv/bin/python -m scripts.make_faults"


if __name__ == "__main__":
    sys.exit(main())
