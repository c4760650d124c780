"""Cards: whether the driver and the GPUs fit the CUDA that torch brings; judged from what `pipelines.probe` reports."""

from collections.abc import Sequence
from typing import Any

from server.checks import Finding

LEAST_DRIVER = {13: 580, 12: 525}
"""CUDA major -> oldest driver that runs it (NVIDIA, CUDA Compatibility, minor version compatibility, table 1)."""
OLDER_LIST = "install the list for CUDA 12 (torch 2.10, onnxruntime-gpu 1.26): `make setup KIND=gpu-cu12`"


def driver_findings(report: dict[str, Any]) -> list[Finding]:
    """A driver that is missing, or too old for torch's CUDA: then torch only says that there is no GPU."""
    cuda, driver = report.get("torch_cuda"), report.get("driver")
    if not cuda:
        return [Finding("torch", "stop", f"torch {report.get('torch')} has no CUDA", "run `make setup KIND=gpu`")]
    if not driver:
        return [Finding("driver", "stop", "no NVIDIA driver is loaded", "install the NVIDIA driver, then look again")]
    major, least = major_of(driver), LEAST_DRIVER.get(major_of(cuda), 0)
    if major < least:
        message = (
            f"driver {driver} is too old for the CUDA {cuda} of torch {report['torch']}: it needs {least} or newer"
        )
        return [Finding("driver", "stop", message, f"update the driver, or {OLDER_LIST}")]
    return [Finding("driver", "ok", f"{driver}, CUDA {cuda} needs {least} or newer")]


def architecture_findings(report: dict[str, Any]) -> list[Finding]:
    """GPUs for which torch has no kernels: it sees them and fails at the first one."""
    built = report.get("architectures", [])
    findings = []
    for gpu in report.get("gpus", []):
        name, capability = f"GPU {gpu['index']} ({gpu['name']})", gpu["capability"]
        if runs_on(capability, built):
            findings.append(Finding(name, "ok", f"compute capability {capability}, {gpu['memory'] / 1e9:.0f} GB"))
        else:
            message = (
                f"torch {report['torch']} has no kernels for compute capability {capability}, only {', '.join(built)}"
            )
            findings.append(Finding(name, "stop", message, f"use a newer card, or {OLDER_LIST}"))
    return findings


def runs_on(capability: str, architectures: Sequence[str]) -> bool:
    """Whether a GPU runs kernels built for these: binaries of its own generation, or PTX of any older one.

    NVIDIA, CUDA C++ Programming Guide, binary compatibility and PTX compatibility.
    """
    own = tuple(map(int, capability.split(".")))
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("af")
        built = int(digits[:-1]), int(digits[-1])
        same_generation = built[0] == own[0] and not number.endswith("a")
        if built == own or (built <= own and (kind == "compute" or same_generation)):
            return True
    return False


def major_of(version: str) -> int:
    return int(version.partition(".")[0])
