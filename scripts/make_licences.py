"""Writes LICENCES.md from weights/manifest.toml."""

from pathlib import Path

from weights.licences import render
from weights.manifest import read_manifest

if __name__ == "__main__":
    target = Path(__file__).parents[1] / "LICENCES.md"
    target.write_text(render(read_manifest()), encoding="utf-8")
    print(f"wrote {target}")
