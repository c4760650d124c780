"""doctor: everything that decides whether this machine can serve, each finding with what to do about it."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from pipelines.endpoint import Endpoint
from server.cards import architecture_findings, driver_findings, memory_findings
from server.checks import Finding, disk_finding, keys_finding, port_finding, tls_findings, weights_findings
from server.files import FilesError, FileStore
from server.queue.queue import Queue
from server.queue.store import StoreError
from server.settings import Settings
from server.supervisor.supervisor import DeviceError, probe

PACKAGES = ("veraicon", "torch", "diffusers", "transformers", "onnxruntime", "onnxruntime-gpu", "fastapi", "sqlalchemy")
CUDA = "CUDAExecutionProvider"


def examine(settings: Settings, catalog: Sequence[Endpoint], queue: Queue) -> list[Finding]:
    """Every finding, in the order in which a person would want to read them."""
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        Finding("packages", "ok", ", ".join(installed())),
        *device_findings(settings, catalog),
        disk_finding(settings.data_dir),
        files_finding(settings),
        *weights_findings(settings, catalog),
        *tls_findings(settings),
        queue_finding(settings, queue),
        port_finding(settings.host, settings.port),
    ]


def installed() -> list[str]:
    """``name version`` of each of our main packages that is installed."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def files_finding(settings: Settings) -> Finding:
    """Whether pictures can be written where files_url says."""
    try:
        FileStore(settings.resolved_files_url).check()
    except FilesError as error:
        message, _, remedy = str(error).partition("\n  -> ")
        return Finding("files", "stop", message, remedy)
    return Finding("files", "ok", settings.files_url or "in the data folder")


def queue_finding(settings: Settings, queue: Queue) -> Finding:
    """The keys, or why the queue's database cannot be read."""
    try:
        return keys_finding(settings, queue)
    except (SQLAlchemyError, StoreError) as error:
        remedy = f"check database_url and the permissions of {settings.data_dir.absolute()}"
        return Finding("queue", "stop", f"the queue's database cannot be used: {type(error).__name__}", remedy)


def device_findings(settings: Settings, catalog: Sequence[Endpoint]) -> list[Finding]:
    """What `python -m pipelines.probe` sees: it runs apart, because it loads torch."""
    try:
        report = probe()
    except DeviceError as error:
        return [Finding("device", "stop", str(error), "run `python -m pipelines.probe` by hand and read its message")]
    seen = Finding("device", "ok", summary(report))
    if not settings.resolved_device.startswith("cuda"):
        return [seen, Finding("device used", "ok", f"{settings.resolved_device}, as the settings say")]
    return [seen, *cuda_findings(report), *memory_findings(report, settings, catalog)]


def summary(report: dict[str, Any]) -> str:
    """The probe's report in one line: whatever it names, nested values as JSON."""
    shown = {key: value if isinstance(value, str) else json.dumps(value) for key, value in report.items()}
    return "; ".join(f"{key}: {value}" for key, value in shown.items())


def cuda_findings(report: dict[str, Any]) -> list[Finding]:
    """Full weights run on CUDA: torch and onnxruntime must both see it, and never fall back."""
    findings = [finding for finding in driver_findings(report) if finding.level == "stop"]
    findings += [finding for finding in architecture_findings(report) if finding.level == "stop"]
    if not report.get("gpus"):
        remedy = "install the NVIDIA driver, or look at the program without a GPU: `veraicon serve --weights tiny`"
        findings.append(Finding("cuda", "stop", "torch sees no NVIDIA GPU", remedy))
    if CUDA not in report.get("execution_providers", []):
        remedy = "install onnxruntime-gpu instead of onnxruntime: `scripts/setup.sh gpu`"
        findings.append(Finding("onnxruntime", "stop", f"{CUDA} is not available", remedy))
    return findings or [*driver_findings(report), *architecture_findings(report), Finding("device used", "ok", "cuda")]
