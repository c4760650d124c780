"""Driver, CUDA and compute capability: what `veraicon doctor` makes of what the probe reports."""

from typing import Any

import pytest

from server.cards import architecture_findings, driver_findings, runs_on
from server.doctor import cuda_findings

HOPPER = {"index": 0, "name": "NVIDIA H200", "capability": "9.0", "memory": 150_000_000_000}
REPORT: dict[str, Any] = {
    "torch": "2.13.0",
    "torch_cuda": "13.0",
    "driver": "580.65.06",
    "architectures": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],
    "gpus": [HOPPER],
    "execution_providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


def test_a_machine_that_fits_is_ok_and_its_card_named():
    findings = cuda_findings(REPORT)
    assert {finding.level for finding in findings} == {"ok"}
    assert any("H200" in finding.name and "150 GB" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("driver", "cuda", "level"),
    [
        *(("580.65.06", "13.0", "ok"), ("575.57", "13.0", "stop"), ("550.54", "12.8", "ok"), ("520.1", "12.8", "stop")),
        *((None, "13.0", "stop"), ("580.65", None, "stop")),
    ],
)
def test_the_driver_must_be_new_enough_for_torchs_cuda(driver, cuda, level):
    [finding] = driver_findings(REPORT | {"driver": driver, "torch_cuda": cuda})
    assert finding.level == level


def test_for_an_older_driver_the_list_for_cuda_12_is_named():
    findings = cuda_findings(REPORT | {"driver": "550.54.14", "gpus": []})
    assert ["KIND=gpu-cu12" in finding.remedy for finding in findings] == [True]


def test_a_card_without_kernels_is_named():
    [finding] = architecture_findings(REPORT | {"gpus": [HOPPER | {"name": "Tesla V100", "capability": "7.0"}]})
    assert (finding.level, "V100" in finding.name, "7.0" in finding.message) == ("stop", True, True)


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        *(
            ("8.9", ["sm_86"], True),
            ("8.0", ["sm_86"], False),
            ("9.0", ["sm_86"], False),
            ("9.0", ["compute_80"], True),
        ),
        *(
            ("12.0", ["sm_120"], True),
            ("10.3", ["sm_100"], True),
            ("9.1", ["sm_90a"], False),
            ("9.0", ["sm_90a"], True),
        ),
        *(("7.0", ["compute_75"], False), ("8.9", [], False)),
    ],
)
def test_which_kernels_run_where(capability, built, runs):
    assert runs_on(capability, built) is runs
