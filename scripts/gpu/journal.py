"""What a run found: a line of JSON for each thing as it comes, and the same as a page of Markdown."""

import datetime
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from scripts.gpu.page import render

PACKAGES = ("torch", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Args:
        error: of what was computed against what should come out; not a number where it could not run.
        bar: the largest error that is right. note: which case was the worst, or why it could not run.
    """

    name: str
    error: float
    bar: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.bar


class Journal:
    """Writes two files, `<date>-<card>.jsonl` and `.md`, from the first record on: a run that is cut keeps what it had.

    Args:
        folder: where they go; made when it is not there.
    """

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{datetime.date.today().isoformat()}-{card_slug(device)}.jsonl"
        self.records: list[dict[str, Any]] = []
        self.path.write_text("")

    @property
    def page(self) -> Path:
        return self.path.with_suffix(".md")

    @property
    def failed(self) -> list[str]:
        """Names of what did not hold or could not run."""
        return [
            r.get("name", "") or r["column"] for r in self.records if r["kind"] == "failure" or r.get("ok") is False
        ]

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Keep one record and show it."""
        whole = {"kind": kind, **record}
        self.records.append(whole)
        with self.path.open("a") as stream:
            stream.write(json.dumps(whole) + "\n")
        self.page.write_text(render(self.records))
        print(line_of(whole), flush=True)

    def check(self, check: Check) -> None:
        """Keep the outcome of a check."""
        self.write("check", {**asdict(check), "ok": check.ok})

    def rows(self, rows: Sequence[Any]) -> None:
        """Keep figures."""
        for row in rows:
            self.write("row", asdict(row))


def line_of(record: Mapping[str, Any]) -> str:
    """One record for the screen."""
    if record["kind"] == "row":
        return f"{record['model']:10}{record['column']:12}{record['name']:32}{record['value']:12.3f} {record['unit']}"
    if record["kind"] == "check":
        verdict = "ok" if record["ok"] else "FAILED"
        return f"{verdict:8}{record['name']}: {record['error']:.2e}, at most {record['bar']:.2e} {record['note']}"
    return "  ".join(f"{key}: {value}" for key, value in record.items())


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    today = datetime.date.today().isoformat()
    facts: dict[str, Any] = {
        "card": card_name(device),
        "date": today,
        "host": host_name(),
        "python": platform.python_version(),
    }
    facts |= {name: version(name) for name in PACKAGES}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts |= {"cuda": torch.version.cuda, "memory GB": round(properties.total_memory / 1e9, 1)}
    return facts


def card_name(device: str) -> str:
    """The GPU's name, or CPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def card_slug(device: str) -> str:
    """The card's name for a file: `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", card_name(device).lower()).strip("-")


def host_name() -> str:
    """The processor, on which upstream's times depend."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor()
