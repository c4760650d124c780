"""What deploy/ offers: `make check` lints it, and notices a mistake; every setting and command in it exists."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from server.settings import PREFIX, Settings
from server.supervisor.keeper import GRACE_S
from tests.server_process import ROOT

LINTED = [line.strip().lstrip("@") for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t@")]
KUBERNETES = ROOT / "deploy" / "kubernetes"
UNITS_WITH_WORKERS = ("veraicon.service", "veraicon-worker@.service")
TEXTS = [path for path in [*(ROOT / "deploy").rglob("*"), ROOT / "Dockerfile.cuda"] if path.is_file()]


def lint(folder: Path, linter: str) -> int:
    """The exit status of `make check`'s own line for this linter, run over the files in `folder`."""
    [line] = [line for line in LINTED if f"/{linter} " in line]
    return subprocess.run(
        ["bash", "-c", line.replace(".venv/bin/", f"{shlex.quote(str(ROOT))}/.venv/bin/")],
        cwd=folder,
        capture_output=True,
        check=False,
    ).returncode


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    for name in ("Dockerfile.cuda", ".yamllint"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("linter", "file", "right", "wrong"),
    [
        ("hadolint", "Dockerfile.cuda", "USER 10001:10001", "USER root"),
        ("yamllint", "deploy/compose.yaml", "services:\n", "services:   \n"),
        ("check-jsonschema", "deploy/compose.yaml", "stop_grace_period: 20s", "stop_grace_time: 20s"),
        ("check-jsonschema", "deploy/compose.one-host.yaml", "gpus: all", "gpuz: all"),
        ("kubernetes-validate", "deploy/kubernetes/api.yaml", "readinessProbe:", "readynessProbe:"),
        ("kubernetes-validate", "deploy/kubernetes/worker.yaml", "maxSurge: 0", "maxSurge: []"),
        ("kubernetes-validate", "deploy/kubernetes/config.yaml", "data:\n", "content:\n"),
        ("kubernetes-validate", "deploy/kubernetes/examples/secret.yaml", "stringData:", "texts:"),
    ],
)
def test_make_check_notices_a_mistake(copy, linter, file, right, wrong):
    assert lint(copy, linter) == 0
    text = (copy / file).read_text()
    assert right in text
    (copy / file).write_text(text.replace(right, wrong))
    assert lint(copy, linter) != 0


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(path):
    """An unknown one would keep the program from starting."""
    named = set(re.findall(rf"\b{PREFIX}([A-Z_]*[A-Z])\b", path.read_text()))
    assert named <= {name.upper() for name in Settings.model_fields}


def test_no_file_holds_a_secret():
    """Of the examples each must be filled in first."""
    example = (ROOT / "deploy" / "fleet.env.example").read_text()
    assert {"POSTGRES_PASSWORD=\n", "AWS_SECRET_ACCESS_KEY=\n"} <= set(example.splitlines(keepends=True))
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    environments = [service["environment"] for service in compose["services"].values()]
    secrets = [value for each in environments for name, value in each.items() if re.search("PASSWORD|SECRET", name)]
    assert len(secrets) == 4
    assert all(re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value) for value in secrets)


def test_every_image_but_ours_has_a_version():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    images = {service["image"] for service in compose["services"].values()} - {"veraicon"}
    assert all(re.search(r":v?\d", image) for image in images)


def pods() -> dict[str, dict]:
    """Deployment's or job's name -> what its pods are."""
    documents = [each for path in KUBERNETES.rglob("*.yaml") for each in yaml.safe_load_all(path.read_text())]
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in documents
        if each["kind"] in {"Deployment", "Job"}
    }


@pytest.mark.parametrize(("name", "pod"), pods().items(), ids=pods())
def test_a_pod_is_given_no_settings_by_its_neighbours(name, pod):
    """Kubernetes would tell of the Service `veraicon-api` as VERAICON_API_PORT: no setting, so nothing would start."""
    assert pod["enableServiceLinks"] is False


def graces_s() -> dict[str, int]:
    """Seconds between SIGTERM and SIGKILL, wherever workers run."""
    units = {name: (ROOT / "deploy" / "systemd" / name).read_text() for name in UNITS_WITH_WORKERS}
    composed = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["worker-0"]
    return {
        **{name: int(re.search(r"TimeoutStopSec=(\d+)", text)[1]) for name, text in units.items()},
        "compose": int(composed["stop_grace_period"].rstrip("s")),
        "kubernetes": pods()["veraicon-worker"]["terminationGracePeriodSeconds"],
    }


@pytest.mark.parametrize(("where", "grace_s"), graces_s().items(), ids=graces_s())
def test_a_worker_is_given_the_time_that_it_takes_to_leave(where, grace_s):
    """The drain, and what the supervisor adds to it before it kills."""
    assert grace_s > Settings().drain_s + GRACE_S
