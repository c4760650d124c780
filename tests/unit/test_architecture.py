"""The shape that the project promises to keep."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.catalog import CATALOG

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for room in ("server", "pipelines", "weights", "scripts", "tests") for path in (ROOT / room).rglob("*.py")
)
HEAVY = ("torch", "diffusers", "transformers", "onnxruntime", "insightface", "cv2")


@pytest.mark.parametrize("module", ["server.app", "server.cli.main", "server.worker", "pipelines.catalog", "weights"])
def test_importing_it_loads_no_torch(module):
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_longer_than_a_newcomer_reads_at_once():
    assert [
        f"{path.relative_to(ROOT)}: {n}" for path in SOURCES if (n := len(path.read_text().splitlines())) > 300
    ] == []


def test_every_module_says_what_it_is_for():
    silent = [path for path in SOURCES if path.read_text().strip() and not path.read_text().startswith(('"""', 'r"""'))]
    assert [str(path.relative_to(ROOT)) for path in silent] == []


def test_the_server_names_no_model():
    names = re.compile("instantid|pulid|sdxl", re.IGNORECASE)
    found = [path for path in (ROOT / "server").rglob("*") if path.suffix in {".py", ".html", ".js", ".css"}]
    assert [str(path.relative_to(ROOT)) for path in found if names.search(path.read_text())] == []


def test_no_room_is_called_by_a_word_that_means_nothing():
    empty = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
    assert [str(path) for path in SOURCES if empty & set(re.split(r"[_/.]", str(path.relative_to(ROOT))))] == []


def test_no_tracked_file_names_a_package_registry():
    hosts = re.compile("|".join(["py" + r"pi\.org", "python" + "hosted", r"registry\.npm" + "js", "deb" + r"\.debian"]))
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=False).stdout
    tracked = [ROOT / name for name in listed.split("\0") if name]
    texts = [
        p for p in tracked if p.suffix in {".py", ".md", ".toml", ".txt", ".sh", ".yaml", ".json", ".html", ".js", ""}
    ]
    assert [str(p) for p in texts if p.is_file() and hosts.search(p.read_text(errors="replace"))] == []


@pytest.mark.parametrize("endpoint", CATALOG, ids=lambda endpoint: endpoint.id)
def test_every_endpoints_pipeline_exists(endpoint):
    module, _, name = endpoint.pipeline.partition(":")
    assert f"class {name}(" in (ROOT / Path(*module.split("."))).with_suffix(".py").read_text()
