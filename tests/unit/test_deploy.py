"""What deploy/ offers: `make check` lints it, and notices a mistake; every setting and command in it exists."""

import json
import re
import shlex
import shutil
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from server.serve import HTTP_LEAVES_S
from server.settings import PREFIX, Settings
from server.supervisor.keeper import GRACE_S
from tests.server_process import ROOT

LINTED = [line.strip().lstrip("@") for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t@")]
KUBERNETES = ROOT / "deploy" / "kubernetes"
UNITS_WITH_WORKERS = ("veraicon.service", "veraicon-worker@.service")
WEBHOOKS_LEAVE_S = 5
"""What a try in hand is given, once the HTTP process has left."""
OURS = "veraicon:${IMAGE_TAG:-latest}"
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
        ("kubernetes-validate", "deploy/kubernetes/examples/weights.yaml", "claimRef:", "claim:"),
        ("yamllint", "deploy/prometheus.yml", "scrape_configs:\n", "scrape_configs:   \n"),
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


def test_every_image_has_a_version():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    images = {service["image"] for service in compose["services"].values()} - {OURS}
    ours = {container["image"] for pod in pods().values() for container in pod["containers"]}
    assert len(images) == 2
    assert len(ours) == 1
    assert all(re.search(r":v?\d", image) for image in images | ours)


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


def services(name: str) -> dict[str, dict]:
    return yaml.safe_load((ROOT / "deploy" / name).read_text())["services"]


def unit_grace_s(unit: str) -> int:
    return int(re.search(r"TimeoutStopSec=(\d+)", (ROOT / "deploy" / "systemd" / unit).read_text())[1])


def composed_grace_s(service: dict) -> int:
    return int(service["stop_grace_period"].rstrip("s"))


def graces_of_workers_s() -> dict[str, int]:
    """Seconds between SIGTERM and SIGKILL, wherever workers run."""
    return {
        **{name: unit_grace_s(name) for name in UNITS_WITH_WORKERS},
        "compose": composed_grace_s(services("compose.yaml")["worker-0"]),
        "compose.one-host": composed_grace_s(services("compose.one-host.yaml")["veraicon"]),
        "kubernetes": pods()["veraicon-worker"]["terminationGracePeriodSeconds"],
    }


@pytest.mark.parametrize(("where", "grace_s"), graces_of_workers_s().items(), ids=graces_of_workers_s())
def test_a_worker_is_given_the_time_that_it_takes_to_leave(where, grace_s):
    """The drain, and what the supervisor adds to it before it kills."""
    assert grace_s > Settings().drain_s + GRACE_S


def graces_of_apis_s() -> dict[str, int]:
    """The same where APIs run; what preStop takes in Kubernetes is gone by the time of SIGTERM."""
    pod = pods()["veraicon-api"]
    [sleep, seconds] = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    return {
        "systemd": unit_grace_s("veraicon-api.service"),
        "compose": composed_grace_s(services("compose.yaml")["api"]),
        "kubernetes": pod["terminationGracePeriodSeconds"] - int(seconds),
    }


@pytest.mark.parametrize(("where", "grace_s"), graces_of_apis_s().items(), ids=graces_of_apis_s())
def test_an_api_is_given_the_time_that_it_takes_to_leave(where, grace_s):
    assert grace_s > HTTP_LEAVES_S + WEBHOOKS_LEAVE_S


@pytest.mark.parametrize(("file", "service"), [("compose.yaml", "api"), ("compose.one-host.yaml", "veraicon")])
def test_a_proxy_on_the_host_of_a_container_is_believed(file, service):
    """It is seen as the gateway of one of Docker's networks; a neighbour on the studio's own network is not."""
    told = services(file)[service]["environment"][f"{PREFIX}TRUSTED_PROXIES"]
    trusted = ip_network(re.fullmatch(rf"\$\{{{PREFIX}TRUSTED_PROXIES:-(.+)\}}", told)[1])
    assert ip_address("172.18.0.1") in trusted
    assert ip_address("192.168.1.20") not in trusted
    assert ip_address("10.0.0.7") not in trusted


@pytest.mark.parametrize("path", [*TEXTS, ROOT / "docs" / "operations.md"], ids=lambda path: path.name)
def test_who_checks_the_database_s_certificate_is_told_by_whom_it_is_signed(path):
    text = path.read_text()
    assert text.count("sslmode=verify-full") == text.count("sslmode=verify-full&sslrootcert=/etc/veraicon/ca.pem")


@pytest.mark.parametrize(("name", "pod"), pods().items(), ids=pods())
def test_the_file_of_authorities_is_in_each_pod(name, pod):
    config = yaml.safe_load((KUBERNETES / "config.yaml").read_text())["data"]
    [mount] = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "ca"]
    assert config["SSL_CERT_FILE"] == f"{mount['mountPath']}/ca.pem"
    assert {"name": "ca", "configMap": {"name": "veraicon-ca"}} in pod["volumes"]


def test_the_weights_lie_in_full_below_the_same_folder_everywhere():
    example = (ROOT / "deploy" / "fleet.env.example").read_text()
    folder = re.search("^WEIGHTS_FOLDER=(.+)$", example, re.MULTILINE)[1]
    for unit in UNITS_WITH_WORKERS:
        text = (ROOT / "deploy" / "systemd" / unit).read_text()
        assert f"WEIGHTS_DIR={folder}/full\n" in text
        assert f"ReadOnlyPaths={folder}\n" in text
    for composed in ("compose.yaml", "compose.one-host.yaml"):
        assert f"${{WEIGHTS_FOLDER:-{folder}}}:/weights:ro" in (ROOT / "deploy" / composed).read_text()
    assert "WEIGHTS_DIR=/weights/full" in (ROOT / "Dockerfile.cuda").read_text()


def test_the_claim_takes_the_volume_with_the_weights():
    """Without a name and with a class it would wait for ever, or get a new, empty one."""
    volume = yaml.safe_load((KUBERNETES / "examples" / "weights.yaml").read_text())
    _, claim = yaml.safe_load_all((KUBERNETES / "worker.yaml").read_text())
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"]
    for name in ("accessModes", "storageClassName"):
        assert claim["spec"][name] == volume["spec"][name]
    assert claim["spec"]["storageClassName"] == ""
    assert claim["spec"]["resources"]["requests"]["storage"] == volume["spec"]["capacity"]["storage"]


def test_a_worker_is_promised_the_memory_that_the_sizing_names():
    text = (ROOT / "docs" / "operations.md").read_text()
    needed_gb = int(re.search(r"a worker needs about (\d+) GB", text)[1])
    requests = pods()["veraicon-worker"]["containers"][0]["resources"]["requests"]
    assert int(requests["memory"].removesuffix("Gi")) * 2**30 > needed_gb * 10**9


def test_every_metric_of_the_dashboard_is_taken_once_from_each_process():
    """`max by` without one of a metric's labels would show one series in place of them all."""
    described = (ROOT / "docs" / "metrics.md").read_text()
    labels = {
        name: set(re.findall("`(.+?)`", told)) for name, told in re.findall(r"^\| `(\w+)` \|(.*?)\|", described, re.M)
    }
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    taken = [found for query in queries for found in re.findall(r"max by \(([^)]*)\) \((?:\w+\()?(\w+)", query)]
    assert len(taken) > 20
    for told, sample in taken:
        name = re.sub("_(bucket|sum|count)$", "", sample)
        assert set(told.split(", ")) - {"le"} == labels[name] - {"le"}, sample
        assert ("le" in told) == (sample.endswith("_bucket") or "le" in labels[name]), sample


@pytest.mark.parametrize("metric", ["veraicon_worker_restarts_total", "veraicon_out_of_memory_total"])
def test_the_first_of_a_rare_kind_is_seen(metric):
    """Its series begins with it: increase() and rate() would not count it."""
    text = (ROOT / "deploy" / "grafana" / "dashboard.json").read_text()
    assert re.findall(rf"(\w*)\({metric}\b", text) == [""]


def test_prometheus_asks_as_often_as_a_page_is_made():
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    assert {(job["metrics_path"], job["scrape_interval"]) for job in jobs} == {("/metrics", "15s")}
