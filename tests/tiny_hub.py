"""The checkpoints as the tests have them: our manifest with the tiny bytes, on a hub of this machine or in a folder."""

import hashlib
import io
import json
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from tests.hub import Hub
from tests.server_process import ROOT
from weights.manifest import MANIFEST, read_manifest
from weights.store import tiny_root

DETECTOR = ROOT / "tests" / "data" / "det_skinblob.onnx"


def content(target: str) -> bytes:
    """The tiny file for a place; the tiny profile has no SCRFD."""
    path = tiny_root() / target
    return (path if path.is_file() else DETECTOR).read_bytes()


def tables() -> dict[str, dict[str, Any]]:
    """Our manifest, every fact about the real bytes taken out; the two tiny bases differ, the real ones are one."""
    manifest = tomllib.loads(MANIFEST.read_text("utf-8"))
    manifest["instantid-base"]["repository"] = "stabilityai/tiny-sdxl-for-instantid"
    for table in manifest.values():
        table["files"] = [
            {key: value for key, value in file.items() if key not in {"size", "sha256", "shapes", "mirrors"}}
            for file in table["files"]
        ]
    heads = "EVA02-CLIP-L-14-336.tiny.json"  # the real tower has 64 numbers per head, the tiny one says how many
    manifest["eva02-clip-l-336"]["files"].append({"path": heads, "target": f"pulid/eva_clip/{heads}"})
    return manifest


def written(path: Path, manifest: dict[str, dict[str, Any]]) -> Path:
    """As TOML: JSON's strings, numbers and lists are TOML's too."""
    lines = []
    for name, table in manifest.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items() if key != "files")]
        for file in table["files"]:
            lines += [f"[[{name}.files]]", *(f"{key} = {json.dumps(value)}" for key, value in file.items())]
    path.write_text("\n".join(lines))
    return path


def nested_archive(names: dict[str, bytes]) -> bytes:
    """A zip as the face models are released: in a folder that repeats its name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, body in names.items():
            archive.writestr(f"antelopev2/{name}", body)
    return stream.getvalue()


def tiny_hub() -> Hub:
    """Every hub repository of the manifest, on the tiny weights; the face models only as an archive."""
    repositories: dict[str, dict[str, bytes]] = {}
    for table in tables().values():
        for file in table["files"]:
            repositories.setdefault(table["repository"], {})[file["path"]] = content(file["target"])
    faces = repositories.pop("DIAMONIK7777/antelopev2")
    releases = {"parsing_bisenet.pth": content("pulid/facexlib/parsing_bisenet.pth")}
    return Hub(repositories, releases | {"antelopev2.zip": nested_archive(faces)})


def tiny_manifest(path: Path, release_url: str = "http://127.0.0.1:9") -> Path:
    """As ours, with the tiny face models' hashes, and the release pages on this machine."""
    manifest = tables()
    manifest["bisenet"] |= {"source": "url", "repository": release_url}
    for file in manifest["antelopev2"]["files"]:
        body = content(file["target"])
        file |= {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        file["mirrors"] = [f"{release_url}/antelopev2.zip#{file['path']}"]
    return written(path, manifest)


def targets(manifest: Path) -> list[str]:
    return [file.target for one in read_manifest(manifest).values() for file in one.files]
