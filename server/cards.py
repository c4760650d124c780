"""Cards: whether driver, GPUs and their memory suffice; judged from what `pipelines.probe` reports."""

import math
from collections.abc import Sequence
from typing import Any

from pipelines.endpoint import CardStage, Endpoint
from pipelines.errors import LoadError
from pipelines.memory import Stage, choose, decode_scratch, plan, step_scratch
from server.checks import Finding
from server.settings import Settings
from weights.store import read_shapes

HALF = 2
"""Bytes of a number in half precision."""

LEAST_DRIVER = {13: 580, 12: 525}
"""CUDA major -> oldest driver that runs it (NVIDIA, CUDA Compatibility, minor version compatibility, table 1)."""
OLDER_LIST = ", or install the list for CUDA 12 (torch 2.10, onnxruntime-gpu 1.26): `make setup KIND=gpu-cu12`"


def older_list(report: dict[str, Any]) -> str:
    """Advice to install the second list, where that would help."""
    cuda, driver = report.get("torch_cuda"), report.get("driver")
    helps = cuda and driver and major_of(cuda) > 12 and major_of(driver) >= LEAST_DRIVER[12]
    return OLDER_LIST if helps else ""


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
        return [Finding("driver", "stop", message, f"update the driver{older_list(report)}")]
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
            findings.append(Finding(name, "stop", message, f"use a newer card{older_list(report)}"))
    return findings


def memory_findings(report: dict[str, Any], settings: Settings, catalog: Sequence[Endpoint]) -> list[Finding]:
    """Per card, what stays on it and what comes and goes; counted from the networks' shapes, not measured."""
    findings = []
    for gpu in report.get("gpus", []):
        name = f"memory of GPU {gpu['index']}"
        try:
            chosen = choose(gpu["memory"]) if settings.memory_profile == "auto" else settings.memory_profile
        except LoadError as error:
            findings.append(Finding(name, "stop", str(error), "use a larger card"))
            continue
        planned = plan(chosen, [stage_of(endpoint, one) for endpoint in catalog for one in endpoint.stages])
        told = "; ".join(planned.lines)
        if planned.fits:
            findings.append(Finding(name, "ok", told))
        else:
            findings.append(Finding(name, "warn", told, "lower max_side_px, or use a larger card"))
    return findings


def stage_of(endpoint: Endpoint, stage: CardStage) -> Stage:
    """The stage in bytes: networks in half precision, and what is computed with them."""
    weights = {name: HALF * numbers_in(shapes) for name, shapes in stage.networks.items()}
    size = (stage.width, stage.height)
    scratch = step_scratch(stage.rows, *size) if stage.rows else decode_scratch(*size, HALF)
    return Stage(f"{endpoint.title}: {stage.name}", weights, scratch)


def numbers_in(network: str) -> int:
    """How many numbers a network has, by its ``list`` or ``list:prefix``."""
    name, _, prefix = network.partition(":")
    return sum(math.prod(shape) for key, (shape, _) in read_shapes(name).items() if key.startswith(prefix))


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
